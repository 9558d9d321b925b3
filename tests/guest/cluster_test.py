#!/usr/bin/env python3
"""Goal: replication keeps its promises over verbs as over tcp: what targets send one another, READs of a leader's memory among
it, and what becomes of that when one of them dies, while another host is not there at all.

Method: tests/system/cluster_test.py itself, its `life` by default, in a guest with Soft-RoCE, on disks in a small file system.
The guest's clock counts instructions: elections come from what is tested, not from what else the host does.

    cluster_test.py TARGET GATEWAY INITIATOR SLUICE JOURNAL_CLIENT [TEST ...]"""
import os
import sys

import rxe
from guest import EXT4, Guest, Image, check, disk, finish
from trio import add_programs

DEVICE = "ofi+verbs:rxe0"
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DISK_MIB = 448
# Of the host's time.
LIMIT_S = 300
SANITIZERS = ("ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS")


def settings():
    """Of the test in the guest."""
    chosen = {"SLUICE_TEST_LINK": DEVICE, "SLUICE_TEST_HOST": rxe.ADDRESS, "SLUICE_TEST_ABSENT": f"{rxe.ABSENT}:7600",
              "SLUICE_TEST_SLOW": 3 * float(os.environ.get("SLUICE_TEST_SLOW", 1)), "PYTHONHOME": sys.base_prefix}
    # The files that they name are in the root of the guest.
    chosen |= {name: os.environ[name].replace(f"{ROOT}/tests/", "/") for name in SANITIZERS if name in os.environ}
    return "".join(f"export {name}='{value}'\n" for name, value in chosen.items())


def build_image(programs):
    image = rxe.add(add_programs(Image(), programs)).python(f"{ROOT}/tests/system/cluster_test.py").modules(*EXT4)
    return image.file("/lsan.supp", f"{ROOT}/tests/lsan.supp", mode=0o644)


def body(programs, tests):
    def cluster(guest):
        command = " ".join(["cluster_test.py", *(f"/usr/bin/{os.path.basename(program)}" for program in programs), *tests])
        print(guest.run(f"{settings()}cd /disk; exec {command}", limit_s=LIMIT_S, name="cluster_test"), end="", flush=True)

    with disk(DISK_MIB, "ext4") as path, Guest(build_image(programs), drives=[path], steady=True) as guest:
        print(f"ok      boot  {guest.boot_s:.1f} s  Linux {guest.ready}", flush=True)
        rxe.up(guest)
        guest.load(*EXT4)
        guest.run("mkdir /disk && mount -t ext4 /dev/vda /disk", name="mount")
        failed = not check(guest, "cluster", cluster, [guest])
    print(f"{'FAILED' if failed else 'ok':<7} guest  {guest.total_s:.1f} s from the start of QEMU to its end", flush=True)
    return failed


if __name__ == "__main__":
    finish(lambda: body(sys.argv[1:6], sys.argv[6:] or ["life"]))
