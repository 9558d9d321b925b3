#!/usr/bin/env python3
"""The demo (scripts/demo) in a guest, over verbs on Soft-RoCE, with small sizes; `make demo-rdma`.

    demo.py [BUILD]    FABRIC=ofi+verbs:rxe0 (default), or tcp
"""
import os
import sys

import rxe
from guest import EXT4, Failure, Guest, Image, Missing, disk

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FABRIC = os.environ.get("FABRIC", "ofi+verbs:rxe0")
PROGRAMS = ["src/daemon/sluice-target", "src/daemon/sluice-gateway", "src/cli/sluice-initiator",
            "src/cli/sluice/sluice"]
SETTINGS = {"FABRIC": FABRIC, "BUILD": "/build", "DEMO_DIRECTORY": "/disk", "DEMO_MIB": "6", "DEMO_MOST_MIB": "8",
            "DEMO_SECOND_MIB": "8", "DEMO_SECONDS": "2", "FABRIC_HOST": rxe.ADDRESS, "PYTHONHOME": sys.base_prefix}
DISK_MIB = 192
LIMIT_S = 300


def build_image(build):
    image = rxe.add(Image()).program("tar").python(f"{ROOT}/scripts/demo").modules(*EXT4)
    for program in PROGRAMS:
        image.program(f"{build}/{program}").file(f"/build/{program}", f"{build}/{program}")
    return image


def follow(process):
    """Shows what it says as it comes."""
    shown = 0
    while True:
        running = process.running()
        text = process.text()
        sys.stdout.write(text[shown:])
        sys.stdout.flush()
        shown = len(text)
        if not running:
            return
        process.guest.listen(0.2)


def demo(build):
    # The targets open their files with O_DIRECT, which this kernel's tmpfs cannot.
    with disk(DISK_MIB, "ext4") as path:
        with Guest(build_image(build), drives=[path]) as guest:
            print(f"A guest: Linux {guest.ready}, booted in {guest.boot_s:.0f} s; Soft-RoCE device rxe0 at {rxe.ADDRESS}")
            rxe.up(guest)
            guest.load(*EXT4)
            guest.run("mkdir /disk && mount -t ext4 /dev/vda /disk")
            print(guest.run("rdma link"), end="", flush=True)
            process = guest.start("demo", "".join(f"export {name}={value}\n" for name, value in SETTINGS.items()) + "exec demo")
            follow(process)
            process.wait(LIMIT_S)
            return process.status


if __name__ == "__main__":
    try:
        sys.exit(demo(os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else f"{ROOT}/build")))
    except Missing as reason:
        print(f"demo-rdma: SKIPPED: {reason}")
        sys.exit(77)
    except Failure as failure:
        sys.exit(f"demo-rdma: FAILED: {failure}")
