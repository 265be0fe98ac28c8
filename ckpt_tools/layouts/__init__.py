"""How each trainer lays a checkpoint out, as data, and how a file's layout and parts are recognised."""

from ckpt_tools.layouts.parts import Group, Part, find_parts
from ckpt_tools.layouts.recognise import Recognised, recognise
from ckpt_tools.layouts.table import LAYOUTS, Layout, layout_named

__all__ = [
    "LAYOUTS",
    "Group",
    "Layout",
    "Part",
    "Recognised",
    "find_parts",
    "layout_named",
    "recognise",
]
