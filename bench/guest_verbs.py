#!/usr/bin/env python3
"""Goal: what our fabric adds to an operation over verbs, in instructions, so that it holds on any machine and beside any load.

Method: bench/verbs, bare and through our fabric, in a guest with Soft-RoCE whose clock is the count of the instructions that
its one processor executes (QEMU -icount shift=0): a nanosecond is an instruction, of the program, of the kernel, and of
Soft-RoCE, which does there what a card would do. The same build gives the same figures within half a percent.

    guest_verbs.py [BUILD] [COUNT]    prints a line for each; scripts/bench makes rows of them
"""
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
sys.path.insert(0, f"{ROOT}/tests/guest")
import rxe  # noqa: E402  (after the path is set)
from guest import Failure, Guest, Image, Missing  # noqa: E402

DEVICE = "ofi+verbs:rxe0"
KINDS = ("send", "read", "write")
DEPTHS = (1, 32)
PAYLOAD_BYTES = 4096
COUNT = 2000
# The network's, so that RoCE's own is 4096: 4 KiB in one packet.
MTU = 4300
LIMIT_S = 300


def figure(text):
    found = re.search(r": (\d+) ns an operation, (\d+) of them outside of ([0-9.]+) system calls", text)
    if not found:
        raise Failure(f"bench/verbs said:\n{text}")
    return {"all": float(found.group(1)), "user": float(found.group(2)), "doorbells": float(found.group(3))}


def measure(build, count=COUNT):
    """{(kind, depth): {"bare": {"all": instructions an operation, "user": …, "doorbells": …}, "fabric": {…}}}. Missing, Failure."""
    image = rxe.add(Image()).program(f"{build}/bench/verbs")
    results = {}
    with Guest(image, steady=True) as guest:
        rxe.up(guest, mtu=MTU)
        said = guest.run("ibv_devinfo -d rxe0")
        if not re.search(r"active_mtu:\s+4096", said):
            raise Failure(f"RoCE's MTU is not 4096:\n{said}")
        for kind in KINDS:
            for depth in DEPTHS:
                results[kind, depth] = {
                    how: figure(guest.run(f"exec verbs {DEVICE} {rxe.ADDRESS}:0 {how} {kind} {depth} {PAYLOAD_BYTES} {count}",
                                          limit_s=LIMIT_S))
                    for how in ("bare", "fabric")}
    return results


def main():
    build = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else f"{ROOT}/build")
    os.chdir(build)
    for (kind, depth), got in measure(build, int(sys.argv[2]) if len(sys.argv) > 2 else COUNT).items():
        for what in ("all", "user"):
            bare, ours = got["bare"][what], got["fabric"][what]
            print(f"{kind:<6} depth {depth:>2}, {what:<4}: {ours:8,.0f} instructions, bare {bare:8,.0f}: {ours / bare:.2f} x, "
                  f"{ours - bare:+,.0f}; system calls {got['fabric']['doorbells']:.2f}, bare {got['bare']['doorbells']:.2f}")


if __name__ == "__main__":
    try:
        main()
    except Missing as reason:
        print(f"SKIPPED: {reason}")
        sys.exit(77)
    except Failure as failure:
        sys.exit(f"guest_verbs: FAILED: {failure}")
