"""A plain training loop as a user writes it, run in processes of its own so that it can be killed.

    python loop.py FOLDER [EPOCHS] [--background] [--every-steps N] [--die-after STEP] [--sleep] …

Prints the loss of every step as ``step loss`` (exactly, in hex), and at the end a digest of all state.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
from typing import Any

import numpy
import torch
import torch.distributed as dist

from ckpt_tools.training import CheckpointManager, ResumableSampler

SAMPLES, BATCH = 22, 4


class Noisy(torch.utils.data.Dataset[Any]):  # type: ignore[misc]
    """Samples that draw from all three generators, as augmentations do."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        noise = random.random() + float(numpy.random.rand()) + torch.rand(1)
        return torch.full((6,), float(index)) / SAMPLES + 0.1 * noise, torch.tensor([index % 3 - 1.0])


def digest(*states: Any) -> str:
    """A digest of all tensors and numbers in state dicts."""
    found = hashlib.sha256()

    def feed(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.update(value.detach().cpu().contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                found.update(str(key).encode())
                feed(value[key])
        elif isinstance(value, (list, tuple)):
            for one in value:
                feed(one)
        else:
            found.update(repr(value).encode())

    for state in states:
        feed(state)
    return found.hexdigest()


def say(*words: Any) -> None:
    """A line in one piece, as several processes share the output."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--every-steps", type=int)
    parser.add_argument("--every-epochs", type=int)
    parser.add_argument("--every-seconds", type=float)
    parser.add_argument("--background", action="store_true")
    parser.add_argument("--die-after", type=int, help="a step after which the process dies like a killed one")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--keep-last", type=int, default=3)
    parser.add_argument("--keep-best")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(asked.seed)
    random.seed(asked.seed)
    numpy.random.seed(asked.seed)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    net = torch.nn.Sequential(
        torch.nn.Linear(6, asked.width),
        torch.nn.BatchNorm1d(asked.width),
        torch.nn.Dropout(0.3),
        torch.nn.Linear(asked.width, 1),
    )
    model = torch.nn.parallel.DistributedDataParallel(net) if dist.is_initialized() else net
    ema = torch.optim.swa_utils.AveragedModel(net)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    sampler = ResumableSampler(Noisy(), seed=3)
    loader = torch.utils.data.DataLoader(Noisy(), batch_size=BATCH, sampler=sampler)
    with CheckpointManager(
        asked.folder, model=model, optimizer=optimizer, scheduler=scheduler, ema=ema, sampler=sampler,
        args={"epochs": asked.epochs}, every_steps=asked.every_steps, every_epochs=asked.every_epochs,
        every_seconds=asked.every_seconds, keep_last=asked.keep_last, keep_best=asked.keep_best,
        background=asked.background,
    ) as manager:  # fmt: skip
        start = manager.restore_latest()
        say("start", start.next_epoch, start.steps, len(start.skipped))
        for epoch in range(start.next_epoch, asked.epochs):
            sampler.set_epoch(epoch)
            for inputs, wanted in loader:
                loss = torch.nn.functional.mse_loss(model(inputs), wanted)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
                ema.update_parameters(net)
                sampler.advance(len(inputs) * sampler.replicas)
                manager.step(epoch, {"loss": loss.item()})
                say("step", manager.steps, loss.item().hex())
                if asked.die_after == manager.steps:
                    manager.wait()
                    os._exit(9)
            manager.end_epoch(epoch)
    say("end", digest(net.state_dict(), optimizer.state_dict(), scheduler.state_dict(), ema.state_dict()))
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
