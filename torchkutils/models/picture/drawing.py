"""What a picture was drawn from: enough to draw it again, at other depths or in another language."""

from __future__ import annotations

from dataclasses import dataclass, field

from torchkutils.models.picture.boxes import Box
from torchkutils.models.picture.layer_kinds import LayerFacts, kind_of
from torchkutils.models.picture.look import Look
from torchkutils.models.picture.picture_graph import PictureGraph
from torchkutils.models.records import Trace


@dataclass(frozen=True)
class Drawing:
    """A trace, and how it is to look.

    Attributes:
        trace: What ran.
        look: How it is to look.
        facts: What the trace does not tell of the layers; filled where the look asks for it.
    """

    trace: Trace
    look: Look
    facts: LayerFacts = field(default_factory=LayerFacts)

    @property
    def depth(self) -> int:
        """Down to which level modules are open."""
        return self.look.opened_depth(self.trace)

    def kind_of(self, box: Box) -> str:
        """A key of the palette for a box; "" where boxes have no colours."""
        if box.module is None or not self.look.coloured:
            return ""
        return self.facts.kinds.get(self.trace.modules[box.module].path) or kind_of([box.class_name])

    def graph(self) -> PictureGraph:
        """The boxes and arrows.

        Raises:
            ValueError: The look's `layer_range` names no layer that is drawn.
        """
        look = self.look
        return PictureGraph(
            self.trace,
            self.depth,
            functions=look.show_ops,
            rolled=look.rolled,
            fold=look.fold,
            layer_range=look.layer_range,
        )
