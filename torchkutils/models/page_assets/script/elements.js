// Making elements. Whatever a model calls itself only ever becomes an attribute's value or a text node, never markup.

const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);

// Half of a character that is written as two: neither an address nor a file can hold it alone.
const wellFormed = (text) => text.replace(/\p{Surrogate}/gu, "\ufffd");

function filled(element, attributes, inside) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...inside);
  return element;
}

const svg = (tag, attributes = {}, ...inside) => filled(document.createElementNS(SVG, tag), attributes, inside);
const html = (tag, attributes = {}, ...inside) => filled(document.createElement(tag), attributes, inside);
