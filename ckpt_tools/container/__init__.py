"""The archive a checkpoint lies in: members with offset, size and checksum, read strictly or tolerantly."""

from ckpt_tools.container.members import (
    DEFLATED,
    MOST_UNPACKED,
    STORED,
    UNPACKED_RATIO,
    Container,
    Member,
    MemberError,
    inflate,
    member_bytes,
    member_pieces,
    member_source,
)
from ckpt_tools.container.safetensors import Entry, NewTensor, SafeTensors, read_safetensors, safetensors_archive
from ckpt_tools.container.sniff import Kind, archive_kind, foreign, sniff
from ckpt_tools.container.writer import NewMember, archive
from ckpt_tools.container.ziparchive import read_zip
from ckpt_tools.container.ziprecords import find_end

__all__ = [
    "DEFLATED",
    "MOST_UNPACKED",
    "STORED",
    "UNPACKED_RATIO",
    "Container",
    "Entry",
    "Kind",
    "Member",
    "MemberError",
    "NewMember",
    "NewTensor",
    "SafeTensors",
    "archive",
    "archive_kind",
    "find_end",
    "foreign",
    "inflate",
    "member_bytes",
    "member_pieces",
    "member_source",
    "read_safetensors",
    "read_zip",
    "safetensors_archive",
    "sniff",
]
