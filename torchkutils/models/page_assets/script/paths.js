// Arrows as the text of one path: lines that leave and arrive along the direction of the picture.

const mark = ({ x, y }) => `${Math.round(x * 10) / 10} ${Math.round(y * 10) / 10}`;

function curve(points, arc, across) {
  const [start, ...others] = points;
  if (arc) return `M${mark(start)}C${mark(points[1])} ${mark(points[2])} ${mark(points[3])}`;
  let path = `M${mark(start)}`, from = start;
  for (const to of others) {
    if (Math.abs(across ? from.y - to.y : from.x - to.x) < 0.5) path += `L${mark(to)}`;
    else if (across) path += `C${mark({ x: (from.x + to.x) / 2, y: from.y })} ${mark({ x: (from.x + to.x) / 2, y: to.y })} ${mark(to)}`;
    else path += `C${mark({ x: from.x, y: (from.y + to.y) / 2 })} ${mark({ x: to.x, y: (from.y + to.y) / 2 })} ${mark(to)}`;
    from = to;
  }
  return path;
}

function head(points, arc, across) {
  const end = points[points.length - 1], before = points[points.length - 2];
  const size = 7, half = 3.5;
  const sideways = arc ? !across : across;
  if (sideways) {
    const away = Math.sign(before.x - end.x) || -1;
    return `M${mark(end)}L${mark({ x: end.x + away * size, y: end.y - half })}L${mark({ x: end.x + away * size, y: end.y + half })}Z`;
  }
  const away = Math.sign(before.y - end.y) || -1;
  return `M${mark(end)}L${mark({ x: end.x - half, y: end.y + away * size })}L${mark({ x: end.x + half, y: end.y + away * size })}Z`;
}
