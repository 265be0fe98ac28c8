"""The archive around a checkpoint: read from the directory where it is whole, from the headers where it is not."""

from __future__ import annotations

import io
import zipfile
import zlib

import pytest
from building import (
    GOOD_PICKLE,
    Member,
    archive,
    plain_checkpoint,
    plain_members,
    saved,
    saved_legacy,
    torch_zip,
    weights,
)
from conftest import Verify
from damage import append, cut, directory_start, flip, lose_directory, overwrite, prefix, zero_directory, zero_tail

from ckpt_tools.container import (
    DEFLATED,
    Container,
    MemberError,
    archive_kind,
    member_bytes,
    member_pieces,
    read_zip,
    sniff,
)
from ckpt_tools.findings import Finding, StrictReadError, Verdict, collect, strict
from ckpt_tools.source import BytesSource

GOOD = saved(plain_checkpoint())


def read(data: bytes) -> tuple[Container, list[Finding]]:
    found, sink = collect()
    return read_zip(BytesSource(data), sink), found


def slugs(found: list[Finding]) -> set[str]:
    return {fact.slug for fact in found}


def contents(data: bytes) -> dict[str, bytes]:
    container, _ = read(data)
    return {name: member_bytes(container.source, member, 1 << 20) for name, member in container.members.items()}


class TestWhole:
    @pytest.mark.parametrize("options", [{}, {"crc": False}, {"deflated": True}, {"folder": "best of all"}])
    def test_reads_what_the_standard_library_reads(self, options: dict[str, object]) -> None:
        data = saved(plain_checkpoint(), **options)  # type: ignore[arg-type]
        container, found = read(data)
        with zipfile.ZipFile(io.BytesIO(data)) as peer:
            assert found == []
            assert {f"{container.root}/{name}" for name in container.members} == set(peer.namelist())
            if options.get("crc", True):
                assert all(peer.read(f"{container.root}/{name}") == data for name, data in contents(data).items())

    def test_archive_written_by_zip_tools_is_fine(self) -> None:
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as target:
            for name, data in contents(GOOD).items():
                target.writestr(f"last/{name}", data)
        container, found = read(made.getvalue())
        assert found == []
        assert container.root == "last"
        assert container.members["data.pkl"].method == DEFLATED
        assert contents(made.getvalue()) == contents(GOOD)

    def test_zip64_records_are_understood(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as target:
            for name, data in contents(GOOD).items():
                with target.open(f"last/{name}", "w", force_zip64=True) as member:
                    member.write(data)
        data = made.getvalue()
        assert b"PK\6\6" in data, "the archive has no zip64 records, so this proves nothing"
        assert read(data)[1] == []
        assert contents(data) == contents(GOOD)

    def test_missing_format_version_is_no_finding(self) -> None:
        assert read(torch_zip(GOOD_PICKLE))[1] == []

    def test_strict_reading_passes_a_good_archive(self) -> None:
        assert read_zip(BytesSource(GOOD), strict).directory


class TestDamaged:
    def test_lost_directory_keeps_every_member(self) -> None:
        container, found = read(lose_directory(GOOD))
        assert not container.directory
        assert contents(lose_directory(GOOD)) == contents(GOOD)
        assert slugs(found) == {"cut-short"}

    def test_overwritten_directory_keeps_every_member(self) -> None:
        _, found = read(zero_directory(GOOD))
        assert contents(zero_directory(GOOD)) == contents(GOOD)
        assert slugs(found) == {"directory-lost"}

    def test_members_before_a_cut_are_whole(self) -> None:
        container, _ = read(GOOD)
        last = max(container.members.values(), key=lambda member: member.offset)
        shorter, found = read(cut(GOOD, last.offset + 1))
        assert slugs(found) == {"cut-short"}
        assert [name for name, member in shorter.members.items() if not member.whole] == [last.name.split("/", 1)[1]]

    def test_zero_tail_says_where_the_zeros_begin(self) -> None:
        start = len(GOOD) // 2
        _, found = read(zero_tail(GOOD, start))
        zeros = next(fact for fact in found if fact.slug == "zero-tail")
        assert len(GOOD.rstrip(b"\0")) > start
        assert int(zeros.where.removeprefix("byte ")) <= start
        assert str(len(GOOD)) in zeros.message

    def test_flipped_bit_names_member_and_tensor(self, verified: Verify) -> None:
        container, _ = read(GOOD)
        member = container.members["data/2"]
        report = verified(flip(GOOD, member.offset + 1, 3))
        wrong = next(fact for fact in report.findings if fact.slug == "checksum-mismatch")
        assert report.verdict is Verdict.DAMAGED
        assert "archive/data/2" in wrong.message
        assert "linear.weight" in wrong.message

    def test_flipped_bit_is_beyond_a_quick_look(self, verified: Verify) -> None:
        container, _ = read(GOOD)
        report = verified(flip(GOOD, container.members["data/2"].offset), quick=True)
        assert report.checked == "structure"
        assert report.verdict is Verdict.RESUMABLE

    def test_without_checksums_a_flip_can_not_be_noticed_and_a_note_says_so(self, verified: Verify) -> None:
        report = verified(saved(plain_checkpoint(), crc=False))
        assert report.verdict is Verdict.RESUMABLE
        assert "no-checksums" in slugs(report.findings)

    @pytest.mark.parametrize(
        ("change", "slug"),
        [
            (lambda data: append(data, b"more"), "appended-bytes"),
            (lambda data: prefix(data, b"#!/bin/sh\n"), "stray-bytes"),
            (lambda data: overwrite(data, directory_start(data) + 16, b"\1\2\3\4"), "header-conflict"),
        ],
        ids=["appended", "prefixed", "checksum of the directory"],
    )
    def test_bytes_that_do_not_fit_are_reported(self, change: object, slug: str) -> None:
        assert callable(change)
        assert slug in slugs(read(change(GOOD))[1])

    def test_duplicate_names_are_reported(self) -> None:
        twice = archive(
            Member("archive/data.pkl", GOOD_PICKLE), Member("archive/data.pkl", GOOD_PICKLE), *plain_members()
        )
        assert "duplicate-member" in slugs(read(twice)[1])

    def test_encryption_flag_is_reported(self) -> None:
        assert "odd-flags" in slugs(
            read(archive(Member("archive/data.pkl", GOOD_PICKLE, flags=1), *plain_members()))[1]
        )

    def test_strict_reading_raises_at_the_first_fault(self) -> None:
        with pytest.raises(StrictReadError, match="CKPT101"):
            read_zip(BytesSource(lose_directory(GOOD)), strict)

    def test_deflated_member_never_unpacks_to_more_than_it_says(self) -> None:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = packer.compress(bytes(10_000)) + packer.flush()
        data = archive(Member("archive/data.pkl", packed, method=DEFLATED), *plain_members())  # claims len(packed)
        container, _ = read(data)
        with pytest.raises(MemberError, match="unpacks to more"):
            list(member_pieces(container.source, container.members["data.pkl"], memoryview(bytearray(64))))


KINDS = {
    "empty": (b"", "empty"),
    "zeros": (bytes(4096), "zeros"),
    "archive": (GOOD, "zip"),
    "stream": (saved_legacy(plain_checkpoint()), "pickle"),
    "web page": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "html"),
    "web page after blanks": (b"\n\n <html lang='en'>", "html"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "git-lfs-pointer"),
    "safetensors": (b'\x10\0\0\0\0\0\0\0{"a":{}}       ', "safetensors"),
    "GGUF": (b"GGUF\3\0\0\0", "gguf"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "hdf5"),
    "ONNX": (b"\x08\x08\x12\x07pytorch", "onnx"),
    "PNG": (b"\x89PNG\r\n\x1a\n", "image"),
    "JPEG": (b"\xff\xd8\xff\xe0", "image"),
    "JSON": (b'{"epoch": 3}', "json"),
    "YAML": (b"# settings\nepochs: 3\n", "yaml"),
    "text": (b"Permission denied\n", "text"),
    "gzip": (b"\x1f\x8b\x08", "gzip"),
    "noise": (b"\xfe\xdc\xba\x98" * 9, "unknown"),
}


@pytest.mark.parametrize("name", KINDS)
def test_kind_of_file_is_told_from_its_first_bytes(name: str) -> None:
    data, kind = KINDS[name]
    assert sniff(BytesSource(data)).name == kind


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"empty", "zeros", "archive", "stream"}))
def test_other_kinds_of_file_are_foreign_and_named(name: str, verified: Verify) -> None:
    report = verified(KINDS[name][0])
    assert report.verdict is Verdict.FOREIGN
    assert report.kind == KINDS[name][1]
    assert [fact.slug for fact in report.findings] == ["not-a-checkpoint"]


@pytest.mark.parametrize(("name", "slug"), [("empty", "empty-file"), ("zeros", "all-zeros")])
def test_nothing_in_the_file_is_damage(name: str, slug: str, verified: Verify) -> None:
    report = verified(KINDS[name][0])
    assert report.verdict is Verdict.DAMAGED
    assert [fact.slug for fact in report.findings] == [slug]


@pytest.mark.parametrize(
    ("members", "kind"),
    [
        (["data.pkl", "constants.pkl", "code/__torch__/net.py", "data/0", "version"], "torchscript"),
        (["last.pt"], "outer-zip"),
        (["arr_0.npy"], "npz"),
        (["config.json", "model.weights.h5"], "keras"),
        (["readme.txt"], "zip-archive"),
    ],
)
def test_other_archives_are_foreign_and_named(members: list[str], kind: str, verified: Verify) -> None:
    assert archive_kind(members).name == kind
    report = verified(archive(*(Member(f"archive/{name}", GOOD_PICKLE) for name in members)))
    assert report.verdict is Verdict.FOREIGN
    assert report.kind == kind


def test_archive_of_torch_that_lost_its_pickle_is_damaged(verified: Verify) -> None:
    assert verified(archive(*plain_members())).verdict is Verdict.DAMAGED


def test_big_endian_storages_are_read_as_such(verified: Verify) -> None:
    data = saved(weights(), folder="archive").replace(b"little", b"big   ")
    # the member's checksum no longer fits, and nothing else is wrong
    assert verified(data).verdict is Verdict.DAMAGED
