"""The one catalogue of finding codes.

``CKPTnnn`` with a slug, never reused. The hundreds tell the room: 0 source, 1 container, 2 pickle, 3 tensors,
4 layout, 5 training state, 6 safety, 7 portability, 9 outcome of a repair. ``message`` is filled with the facts
of the case; ``explanation`` and ``cure`` are what ``ckpt explain`` prints and ``docs/findings.md`` is made of;
``remedy`` is the next command to type (``{path}`` stands for the file).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ckpt_tools.findings.words import Severity, Verdict

__all__ = ["BY_CODE", "BY_SLUG", "CATALOGUE", "Code", "example", "lookup"]


@dataclass(frozen=True)
class Code:
    """One kind of finding, and the verdict it asks for (``None``: it never decides)."""

    code: str
    slug: str
    severity: Severity
    verdict: Verdict | None
    message: str
    explanation: str
    cure: str
    remedy: str


ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE
UNSAFE, FOREIGN, DAMAGED, INCOMPLETE, FINISHED = (
    Verdict.UNSAFE, Verdict.FOREIGN, Verdict.DAMAGED, Verdict.INCOMPLETE, Verdict.FINISHED,
)  # fmt: skip
LOOK = "ckpt inspect {path}"
TENSORS = "ckpt inspect {path} --tensors"
STATS = "ckpt inspect {path} --tensors --stats"
SIBLINGS = "ckpt verify {folder}"
ARGS = "ckpt inspect {path} --args"
GLOBALS = "ckpt inspect {path} --globals"
REPAIR = "ckpt repair {path}"
OLDER = "`ckpt repair` says what can be saved and from which sibling the rest would come; or use the newest whole sibling itself."

CATALOGUE: tuple[Code, ...] = (
    # 0 source
    Code("CKPT001", "empty-file", ERROR, DAMAGED, "the file is empty",
         "The file was created and nothing was written into it: the disk was full, or the process died between "
         "opening and writing. torch says `EOFError: Ran out of input`.", OLDER, REPAIR),
    Code("CKPT002", "all-zeros", ERROR, DAMAGED, "{count} of its {size} bytes are zero",
         "The file system kept the length but not the contents, as after a power cut before the data reached the "
         "disk, or a download that only reserved its space.", OLDER, REPAIR),
    Code("CKPT003", "not-a-checkpoint", ERROR, FOREIGN, "this is {what}, not a PyTorch checkpoint",
         "The first bytes belong to another kind of file, or the pickle holds no tensors at all. torch would fail "
         "with a message about a magic number or an invalid load key.",
         "Find the file that was meant; a download may have saved an error page or a Git LFS pointer.", LOOK),
    Code("CKPT004", "keeps-changing", ERROR, DAMAGED, "the file was written to while it was read, {times} times over",
         "A trainer or a copy is still writing. Whatever was read is a mixture of two states.",
         "Wait until the save or copy is done and verify again.", "ckpt verify {path}"),
    Code("CKPT005", "just-written", WARNING, None, "it was written to {seconds} seconds ago; a save may still be under way",
         "A file that is being saved or copied looks cut until it is whole. ultralytics writes last.pt in place.",
         "Verify again in a moment, before you believe in the damage.", "ckpt verify {path}"),
    # 1 container
    Code("CKPT101", "cut-short", ERROR, DAMAGED, "the file ends {inside}, after {size} bytes",
         "The archive's directory stands at the end of the file and is missing: the writing process was killed, the "
         "disk was full, or a copy stopped early. torch says `failed finding central directory`.", OLDER, REPAIR),
    Code("CKPT102", "zero-tail", ERROR, DAMAGED, "the last {count} of {size} bytes are zero",
         "A power cut can leave a file of full length whose end never reached the disk.", OLDER, REPAIR),
    Code("CKPT103", "directory-lost", ERROR, DAMAGED, "the archive's directory can't be read; {whole} of {members} members are whole",
         "The list of members at the end of the archive is missing or overwritten. The members themselves were "
         "found one behind the other.", OLDER, REPAIR),
    Code("CKPT104", "checksum-mismatch", ERROR, DAMAGED, "{where}: the bytes do not match their checksum{tensors}",
         "Bytes changed after they were written: a failing disk or memory, or an edit. torch.load does not check, "
         "so training would go on from wrong numbers without a word.", OLDER, REPAIR),
    Code("CKPT105", "header-conflict", ERROR, DAMAGED, "the archive contradicts itself: {what}",
         "The directory at the end and the headers beside the data should agree. Programs that read one or the "
         "other would see different files.", OLDER, REPAIR),
    Code("CKPT106", "duplicate-member", ERROR, DAMAGED, "two members have the same name",
         "Which of the two is read depends on the program. torch never writes this.",
         "Get the file again from its source.", LOOK),
    Code("CKPT107", "appended-bytes", ERROR, DAMAGED, "{count} bytes follow the end of the checkpoint",
         "Something was added after the file was finished, or a longer file was overwritten without being cut.",
         "`ckpt repair` writes the checkpoint anew without them.", REPAIR),
    Code("CKPT108", "stray-bytes", ERROR, DAMAGED, "{count} bytes {place} belong to nothing",
         "The archive holds bytes that no header accounts for. torch never writes this.",
         "Get the file again from its source.", LOOK),
    Code("CKPT109", "odd-flags", ERROR, DAMAGED, "a member is marked as encrypted or patched (flags {flags})",
         "torch writes plain members. Such marks make scanners stop while a loader may read on.",
         "Get the file again from its source.", LOOK),
    Code("CKPT110", "member-missing", ERROR, DAMAGED, "the archive has no {member}",
         "Without this member nothing can be loaded. The file was cut near its beginning, or was put together by hand.",
         OLDER, REPAIR),
    Code("CKPT111", "member-unreadable", ERROR, DAMAGED, "{where} can't be read: it {why}",
         "The compressed bytes do not unpack to what the directory promises.", OLDER, REPAIR),
    Code("CKPT112", "no-checksums", NOTE, None, "no checksums were recorded for {count} of {members} members",
         "torch was told not to compute them (`set_crc32_options(False)`). The file is valid; flipped bits in it can't be noticed.",
         "Nothing to do.", LOOK),
    Code("CKPT113", "not-loadable", ERROR, DAMAGED, "torch can't open the archive: it lacks the {lacking}",
         "torch wants every member in one folder and a member called version; some zip tools drop them when they pack "
         "a file anew.", "`ckpt repair` writes the archive anew as torch wants it; or get the file again from its source.", REPAIR),
    Code("CKPT114", "member-refused", ERROR, DAMAGED, "{where} says {what}, where torch wants {wanted}",
         "torch reads a few small members before the object graph and stops at contents it does not know.", OLDER, REPAIR),
    # 2 pickle
    Code("CKPT201", "pickle-cut", ERROR, DAMAGED, "{where} ends early: {why}",
         "The object graph (names, numbers, the plan of all tensors) is not whole.", OLDER, REPAIR),
    Code("CKPT202", "pickle-broken", ERROR, DAMAGED, "{where} is no valid pickle: {why}",
         "The object graph holds something no pickler writes. Bytes were changed.", OLDER, REPAIR),
    Code("CKPT203", "beyond-limits", ERROR, UNSAFE, "{where} goes beyond the limits within which a file is judged: {why}",
         "Loading would take time or memory out of all proportion, or the file is far larger than any checkpoint. "
         "What was not read can't be called safe.", "Do not load it unless you know who made it.", LOOK),
    Code("CKPT204", "frame-straddled", ERROR, UNSAFE, "{where} can be read in two ways: {why}",
         "Where an operand reaches over the end of a pickle frame, one unpickler skips bytes that another runs as "
         "opcodes. No pickler writes this; it hides code from scanners.", "Do not load it.", LOOK),
    Code("CKPT205", "pickle-packed", ERROR, UNSAFE, "{where} is packed by compression method {method}, which torch does not read",
         "torch stores its pickles, zip tools deflate them; another method keeps a scanner from looking inside.",
         "Do not load it.", LOOK),
    # 3 tensors
    Code("CKPT301", "storage-missing", ERROR, DAMAGED, "the bytes of {count} tensors are missing: {tensors}",
         "The object graph names storages that are not in the file. torch says `failed locating file data/N`.", OLDER, REPAIR),
    Code("CKPT302", "storage-short", ERROR, DAMAGED, "the bytes of {count} tensors are cut or overwritten: {tensors}",
         "Storages end before the tensors that lie in them do.", OLDER, REPAIR),
    Code("CKPT303", "storage-size", ERROR, DAMAGED, "storage {key} has {size} bytes where its tensors say {wanted}",
         "The object graph and the archive disagree about a storage's size; some torch versions read beyond it.", OLDER, REPAIR),
    Code("CKPT304", "tensor-outside", ERROR, DAMAGED, "a tensor reaches beyond its storage",
         "Offset, shape and stride lead outside the storage. torch refuses or reads foreign memory.", OLDER, SIBLINGS),
    Code("CKPT305", "non-finite", ERROR, INCOMPLETE, "{count} of {part}'s tensors hold NaN or infinity: {tensors}",
         "Training had diverged, or one bad step poisoned the average. A resume would go on from it and stay NaN.",
         "`ckpt repair` takes finite values from the other set of weights or a sibling; then resume with a lower learning rate.", REPAIR),
    Code("CKPT306", "non-finite-elsewhere", NOTE, None, "{count} tensors outside weights and optimizer hold NaN or infinity: {tensors}",
         "Scores, anchor tables and masks may hold infinities by design.", "Nothing to do.", STATS),
    Code("CKPT307", "saturated", WARNING, None, "{count} of {part}'s tensors hold values at the limit of float16 (65504): {tensors}",
         "Values beyond the range of float16 were clamped when saving; ultralytics also replaces NaN and infinity so.",
         "Look at the tensors; an older file may hold the real values.", STATS),
    Code("CKPT308", "all-zero-weights", WARNING, None, "{count} of {part}'s weight tensors are zero throughout: {tensors}",
         "Weights of convolutions and linear layers are hardly ever exactly zero after training. NaNs replaced by zero look like this.",
         "Compare with an older file.", STATS),
    Code("CKPT309", "underflowed-moments", WARNING, None,
         "{share} % of Adam's second moments ({name}) are zero where the first moment is not ({dtype})",
         "Second moments saved as float16 underflow below 3e-8; after the resume those steps are divided by almost "
         "nothing and the loss jumps (ultralytics 8.1.40 to 8.4.170 saved them so).",
         "Resume with a lower learning rate, or let `ckpt repair` start those states afresh.", "ckpt repair {path} --cure underflowed-moments"),
    Code("CKPT310", "fat-storage", NOTE, None, "{count} tensors are small views of large storages ({wasted} bytes unused)",
         "Saving a slice saves everything it was cut from.", "Save `tensor.clone()` instead, or let `ckpt convert` cut them down.",
         "ckpt convert {path} --portable"),
    Code("CKPT311", "orphan-storage", NOTE, None, "{count} storages ({size} bytes) belong to no tensor",
         "The archive holds bytes nothing refers to. They are ignored when loading.", "Nothing to do.", TENSORS),
    Code("CKPT312", "extra-members", NOTE, None, "{count} members are not torch's own: {names}",
         "Some other tool added them. torch ignores them.", "Nothing to do.", LOOK),
    Code("CKPT313", "inline-tensors", NOTE, None, "{count} tensors lie inside the pickle; their values were not looked at",
         "Python's own pickle keeps the bytes of tensors within the object graph, where they have no checksum.",
         "Save with torch.save.", LOOK),
    Code("CKPT314", "tensor-impossible", ERROR, DAMAGED, "{tensor} can't be rebuilt: {why}",
         "torch rebuilds each tensor by a call with a storage, an offset, a shape, strides and more. These arguments are "
         "none it accepts, so loading fails there.", OLDER, SIBLINGS),
    # 4 layout
    Code("CKPT401", "ema-misfit", ERROR, INCOMPLETE, "average and live weights differ in {count} tensors: {tensors}",
         "The two sets of weights must have the same names and shapes; the trainer loads one over the other.",
         "Use a sibling in which they agree.", TENSORS),
    Code("CKPT402", "optimizer-shape", ERROR, INCOMPLETE, "optimizer state does not fit its parameters: {tensors}",
         "A momentum buffer or moment has another shape than the parameter it belongs to. Loading succeeds and the "
         "first `optimizer.step()` fails.", "Use a sibling's optimizer, or start a fresh one: `ckpt repair` offers both.", REPAIR),
    Code("CKPT403", "group-sizes", ERROR, INCOMPLETE, "the optimizer's groups hold {have} parameters, the model asks for {want}",
         "torch refuses: `loaded state dict contains a parameter group that doesn't match the size of optimizer's group`.",
         "Resume with the version and model that wrote the file, or take an optimizer that fits: `ckpt repair`.", REPAIR),
    Code("CKPT404", "group-order", ERROR, INCOMPLETE,
         "{target} expects the optimizer's groups as {want}, the file (written by {version}) has {have}",
         "ultralytics 8.4.0 changed the order of the parameter groups; a file from before does not load after, nor the "
         "other way round (`ValueError: loaded state dict contains a parameter group that doesn't match …`).",
         "`ckpt repair` brings the groups into the target's order, each state on its own parameter; or resume with the version that wrote it.", REPAIR),
    Code("CKPT405", "layer-misfit", ERROR, INCOMPLETE, "{layer}: {attribute} is {value}, its weight has {shape}",
         "The layer's own numbers contradict its weights. The file was edited or pruned badly.",
         "Use a sibling, or rebuild the model and load the weights by name.", TENSORS),
    Code("CKPT406", "class-count", ERROR, INCOMPLETE, "the head predicts {head} classes, {source} says {count}",
         "The number of classes must be the same in the head's last layers, `nc` and `names`.",
         "Use the file whose data set the run was trained on.", LOOK),
    Code("CKPT407", "args-refused", ERROR, INCOMPLETE, "{target} refuses saved arguments: {names}",
         "The trainer checks the saved training arguments against those it knows and stops on the first other one.",
         "`ckpt repair` translates or leaves out what the target refuses; or resume with the version that wrote it.", REPAIR),
    Code("CKPT408", "needs-dill", ERROR, INCOMPLETE, "{target} can't unpickle it: the file needs the package dill",
         "ultralytics 8.0.114 to 8.3.0 used dill when it was installed; what it wrote needs dill to be read.",
         "Install dill into the training environment.", "pip install dill"),
    Code("CKPT409", "group-count", ERROR, INCOMPLETE, "the optimizer knows {have} parameters, the model has {want}",
         "More parameters in the optimizer than the model has: it belongs to another model.",
         "Use the optimizer of the same run.", TENSORS),
    Code("CKPT410", "head-changed", ERROR, INCOMPLETE,
         "{target} builds this model from other layers than {version} did",
         "ultralytics 8.3.0 to 8.3.16 built the detection head of YOLOv3 to v10 models from depth-wise convolutions; up to "
         "8.4.131 a YOLO11-style yaml without scales got the blocks of the large models; before 8.4.0 reg_max and end2end "
         "of a yaml (YOLO26) were not read. Other versions build them otherwise, and the optimizer's groups do not fit.",
         "Resume with the version that wrote it.", "pip install ultralytics=={version}"),
    Code("CKPT411", "class-names", WARNING, None, "the head predicts {head} classes, names lists {count}",
         "Names and predictions do not go together; on resume ultralytics takes the names from the data set.",
         "Check the data set's class list.", LOOK),
    Code("CKPT412", "optimizer-misfit", ERROR, INCOMPLETE, "the optimizer's state does not belong to {wanted}: {why}",
         "The trainer makes the optimizer its arguments name and loads the saved state into it. State of another kind "
         "fails at once or at the first step (`KeyError: 'exp_avg'`, `'momentum'`, `'step'`).",
         "`ckpt repair` lets the arguments name the optimizer the groups show.", REPAIR),
    Code("CKPT413", "no-initial-lr", ERROR, INCOMPLETE, "parameter groups lack initial_lr, which the warm-up reads",
         "During warm-up ultralytics raises the learning rate from each group's initial_lr and stops with "
         "`KeyError: 'initial_lr'` where there is none.", "`ckpt repair` adds it from the saved lr0.", REPAIR),
    # 5 training state
    Code("CKPT501", "no-optimizer", ERROR, INCOMPLETE, "there is no optimizer state ({path_in_file} {how}){effect}",
         "Without momentum and step counts the trainer refuses, restarts or silently goes on with a fresh optimizer, "
         "and the loss jumps.", "`ckpt repair` takes one from a sibling (`--optimizer-from FILE`) or starts a fresh one, with your word.", REPAIR),
    Code("CKPT502", "empty-optimizer", WARNING, None, "the optimizer's state is empty: momentum starts afresh",
         "The groups are there but no parameter has state. Saved before the first step, or reset on purpose.",
         "Expect a small bump in the loss after the resume.", LOOK),
    Code("CKPT503", "no-epoch", WARNING, None, "the file does not say how far training got",
         "No epoch or step number was found; the script must know where to go on.", "Pass the start epoch by hand.", LOOK),
    Code("CKPT504", "stripped", ERROR, FINISHED, "the run is over: the file was stripped when it ended{progress}",
         "At the end of a run (also when stopped early) the trainer removes optimizer and epoch from last.pt and "
         "best.pt. This can't be undone; epochN.pt files keep theirs. `resume=True` starts a new run on another data "
         "set, or says `nothing to resume`.",
         "For more epochs, start from these weights, or rebuild a resumable file with the optimizer of an epochN.pt.", "ckpt repair {path} --optimizer-from epochN.pt --set epochs=N"),
    Code("CKPT505", "run-complete", ERROR, FINISHED, "the run is over: epoch {epoch} of {epochs} is done",
         "Every planned epoch was trained. The trainer has nothing left to do, refuses, or crashes.",
         "For more epochs start a new run from these weights, or raise the planned epochs.", "ckpt repair {path} --set epochs=N"),
    Code("CKPT506", "not-stripped", NOTE, None, "the run is over but the file still carries its optimizer ({size} bytes)",
         "The process ended between the last epoch and the strip, or this trainer never strips.",
         "Keep it, or strip it for inference, as its trainer would.", "ckpt convert {path} --strip"),
    Code("CKPT507", "no-weights", ERROR, INCOMPLETE, "there are no weights in it, only {what}",
         "Some frameworks spread a checkpoint over several files; this one alone can't be resumed.",
         "Verify the folder it belongs to.", SIBLINGS),
    Code("CKPT508", "part-without-optimizer", ERROR, INCOMPLETE, "there is a {what} but no optimizer",
         "A scheduler, scaler or random state is of no use without the optimizer it belongs to.",
         "Use a file of the same run that has one.", SIBLINGS),
    Code("CKPT509", "epoch-mark", ERROR, INCOMPLETE, "the epoch is {epoch} although there is an optimizer",
         "An epoch below 0 marks a stripped file, but the optimizer is still here: the file was put together by hand. "
         "The trainer refuses or restarts.", "Set the epoch to the one the optimizer belongs to.", "ckpt repair {path} --epoch N"),
    Code("CKPT510", "missing-role", ERROR, INCOMPLETE, "{role} is missing, which its trainer needs to resume",
         "The trainer's resume reads this key and stops, or falls back to defaults, without it.",
         "`ckpt repair` takes it from a sibling or the run folder.", REPAIR),
    Code("CKPT511", "no-ema-counter", ERROR, INCOMPLETE, "the EMA's update counter is missing",
         "ultralytics reads `updates` whenever there is an EMA and stops with `KeyError: 'updates'`.",
         "`ckpt repair` takes it from a sibling, or the optimizer's own steps.", REPAIR),
    Code("CKPT512", "lost-on-resume", NOTE, None, "a resume starts these afresh: {what}",
         "The file does not hold them, so training goes on close to, but not exactly, where it stopped.",
         "Nothing to do; expect a small bump.", LOOK),
    Code("CKPT513", "optimizer-auto", WARNING, None, "the saved arguments say optimizer=auto, the state is {kind}'s",
         "ultralytics decides again on resume; with another data set size, batch or version it picks another optimizer "
         "and the state does not load (`KeyError: 'exp_avg'`, `'momentum'`).",
         "Keep data, batch and version the same when resuming, or name the optimizer in the file.", "ckpt repair {path} --cure optimizer-auto"),
    Code("CKPT514", "resume-trap", WARNING, None,
         "resume=True would not resume this file but start a new run on coco8.yaml with default settings; "
         "resume=PATH would stop, or go on with a fresh optimizer",
         "`resume=True` on a file it can't resume does not fail: ultralytics warns, and trains a new run on coco8.yaml with default settings.",
         "Check with `ckpt verify` before you resume.", "ckpt verify {path} && yolo train resume model={path}"),
    Code("CKPT515", "weights-only", NOTE, None, "weights only: nothing in it was meant to resume a run",
         "A state dict or an exported model. Use it for inference or as the start of a new run.", "Nothing to do.", LOOK),
    Code("CKPT517", "scaler-empty", NOTE, None, "the gradient scaler's state is empty: it was saved without mixed precision",
         "An enabled scaler refuses an empty state in ultralytics before 8.4.149 (`The source state dict is empty`).",
         "Resume with amp as it was, or with a newer version.", "ckpt repair {path} --cure scaler-empty"),
    Code("CKPT518", "sibling", NOTE, None, "nearest file that can be resumed: {name} (epoch {epoch})",
         "Another file of the same run still has everything a resume needs.", "Resume from it.", "ckpt verify {sibling}"),
    Code("CKPT519", "meta-tensors", ERROR, INCOMPLETE, "{count} weights are meta tensors, shapes without values: {tensors}",
         "They were saved from a model whose weights had not been filled in (deferred or sharded loading).",
         "Save the model after its weights are loaded.", TENSORS),
    # 6 safety
    Code("CKPT601", "dangerous-call", ERROR, UNSAFE, "loading it would run {what}: {why}",
         "A pickle is a program. This one names something that does more than rebuild tensors and settings.",
         "Do not load it. Get the file from someone you trust.", GLOBALS),
    Code("CKPT602", "unknown-code", WARNING, None, "loading it imports the package {package} ({names})",
         "The file holds objects of classes nobody here knows. Loading imports and runs their code.",
         "Load it only if the package is yours, or trust it by name.", "ckpt verify {path} --trust {package}"),
    Code("CKPT603", "two-readings", ERROR, UNSAFE, "the archive holds two different pickles under one name",
         "One program would read, or scan, another file than the next. Only an attack looks like this.",
         "Do not load it.", LOOK),
    # 7 portability
    Code("CKPT701", "device-tags", NOTE, None, "tensors are tagged for {devices}",
         "torch.load puts tensors back on the device they were saved from and fails where it doesn't exist, unless "
         "`map_location` says otherwise. ultralytics always loads to the CPU first.",
         "Pass map_location='cpu' to torch.load, or let `ckpt convert` move them.", "ckpt convert {path} --device cpu"),
    Code("CKPT702", "path-objects", NOTE, None, "it holds {kind} objects",
         "A PosixPath can't be made on Windows, nor a WindowsPath elsewhere (`cannot instantiate`), and Python 3.13's "
         "module name for them is unknown to older ones.", "Load it on the system it came from, or turn the paths into text.", "ckpt repair {path} --cure path-objects"),
    Code("CKPT703", "numpy2-names", NOTE, None, "it holds numpy objects by the module names of numpy 2",
         "numpy 1 fails with `No module named 'numpy._core'`.", "Load it with numpy 2, or let `ckpt repair` write the names both versions know.", "ckpt repair {path} --cure numpy2-names"),
    Code("CKPT704", "name-prefix", NOTE, None, "the names of {part} start with {prefix}",
         "DataParallel, DistributedDataParallel and torch.compile wrap the model; a bare model does not load such names.",
         "Wrap the model in the same way, or cut the prefix off before loading.", "ckpt repair {path} --cure name-prefix"),
    Code("CKPT705", "local-paths", NOTE, None, "it holds paths of the machine it was made on: {names}",
         "They show user names and folders to whoever gets the file.", "Mind who gets it, or give away a copy without them.",
         "ckpt convert {path} --scrub"),
    Code("CKPT706", "git-origin", NOTE, None, "it names the git repository it was made from ({origin})",
         "The address of a private repository travels with the weights.", "Mind who gets it, or give away a copy without it.",
         "ckpt convert {path} --scrub"),
    Code("CKPT707", "dill-names", WARNING, None, "it can only be loaded where the package dill is installed",
         "It was saved while dill was installed, and names dill's own functions.",
         "Install dill into the training environment, or let `ckpt convert` write the names without it.", "ckpt convert {path} --portable"),
    Code("CKPT711", "data-missing", ERROR, INCOMPLETE, "the data set it was trained on is not here: {data}",
         "ultralytics trains on another data set, or stops, when the saved one is missing.",
         "Put it there, or pass data= when resuming.", "yolo train resume model={path} data=DATA.yaml"),
    Code("CKPT712", "saves-elsewhere", WARNING, None, "a resume would write to {save_dir}, not to this file's run folder",
         "The folder is stored in the file. A run that was copied or moved resumes into the old place and appends there.",
         "Move the run back, or pass save_dir= (ultralytics 8.4.120 and newer).", "ckpt repair {path} --cure saves-elsewhere"),
    Code("CKPT713", "device-missing", ERROR, INCOMPLETE, "the run used device {device}, which is not on this machine",
         "The saved device is used again on resume.", "Pass another device.", "yolo train resume model={path} device=cpu"),
    Code("CKPT714", "package-missing", ERROR, INCOMPLETE, "packages it names are not installed here: {packages}",
         "Unpickling imports them and fails with `No module named …`; ultralytics may try to pip-install them.",
         "Install the trainer that wrote the file, or name the training environment with --python.", GLOBALS),
    Code("CKPT715", "disk-nearly-full", WARNING, None, "{free} free here, the next saves need {need}",
         "A save that runs out of space leaves a cut file in place of the old one.", "Free disk space before resuming.", SIBLINGS),
    Code("CKPT716", "class-count-here", ERROR, INCOMPLETE, "the data set here has {here} classes, the model {count}",
         "The data set was changed since, or another one lies in its place.", "Pass the right data set.", ARGS),
    # 9 outcome of a repair or conversion
    Code("CKPT901", "repaired", NOTE, None, "it was put together by {tool} from {sources}{loss}",
         "`ckpt repair` wrote it. The ledger in the file says what came from where, and what was lost.",
         "Nothing to do.", LOOK),
    Code("CKPT902", "converted", NOTE, None, "it was converted by {tool} from {sources}: {steps}",
         "`ckpt convert` wrote it. The ledger in the file says what was changed.", "Nothing to do.", LOOK),
)  # fmt: skip

BY_CODE: dict[str, Code] = {entry.code: entry for entry in CATALOGUE}
BY_SLUG: dict[str, Code] = {entry.slug: entry for entry in CATALOGUE}


def example(remedy: str) -> str:
    """A remedy without a file at hand: ``{path}`` becomes ``FILE``, other placeholders their names in capitals."""
    named = remedy.replace("{path}", "FILE")
    return re.sub(r"\{(\w+)\}", lambda found: found.group(1).upper(), named)


def lookup(text: str) -> Code | None:
    """The entry for a code or slug, whatever its case."""
    return BY_CODE.get(text.upper()) or BY_SLUG.get(text.lower())
