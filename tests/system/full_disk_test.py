#!/usr/bin/env python3
"""Goal: a storage whose file system is full fails writes with a clear word, keeps what it has, serves everybody else, and
goes on when there is room again.

Method: the target runs in a user and mount namespace of its own with a small tmpfs that holds a sparse file of more than
its size, and ballast that can be taken away. Where such namespaces are not allowed the test is skipped (77). With O_DIRECT
where this kernel's tmpfs has it (Linux 6.6), and with --buffered."""
import os
import subprocess
import sys

from harness import MIB, World, expect, main

SPACE = ('mount -t tmpfs -o size=16m none "$0" && truncate -s 64M "$0/disk" && head -c 8M /dev/zero > "$0/ballast" && '
         'exec "$@"')
UNSHARE = ["unshare", "--user", "--map-root-user", "--mount"]


def allowed():
    try:
        done = subprocess.run([*UNSHARE, "sh", "-c", 'mount -t tmpfs -o size=1m none "$0"', "/tmp"], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=30)
    except OSError as error:
        return str(error)
    return "" if done.returncode == 0 else done.stdout.strip()


def full(programs, buffered):
    with World(programs) as world:
        space = f"{world.directory}/space"
        os.mkdir(space)
        target = world.serve("target", [*UNSHARE, "sh", "-c", SPACE, space, programs[0], "-d", "tcp", "--storage",
                                        f"file:{space}/disk", "--listen", "127.0.0.1:0", *(["--buffered"] if buffered else [])])
        if not buffered:
            target.wait_for("ready: .* at|has no O_DIRECT")
            if "has no O_DIRECT" in target.text():
                print("        tmpfs of this kernel has no O_DIRECT: with --buffered only")
                target.process.wait()
                world.forget(target)
                return
        other = world.target("tcp", "mem:64M")
        world.gateway("tcp", [target.address(), other.address()], "--volume", "a::0", "--volume", "b::1")
        load = world.initiator("--execution-strategy", "read_write_data_validity_test", "--volume", "b", "--length", "32M")
        sequential = ["--volume", "a", "--io-size", "64K"]
        # 12 MiB do not fit beside 8 MiB of ballast.
        output = world.run(*sequential, "--operation", "write", "--length", "12M", "--run-limit-operation-count", 192, status=1)
        expect("FAILED" in output and "No space left on device (ENOSPC)" in output, output)
        target.wait_for(r"write of \d+ bytes at byte \d+ failed: No space left on device \(ENOSPC\); make room")
        said = world.finish(load)
        expect("data is valid" in said, said)
        world.run(*sequential, "--operation", "read", "--length", "12M", "--run-limit-operation-count", 192)
        os.unlink(f"/proc/{target.pid}/root{space}/ballast")
        output = world.run("--execution-strategy", "read_write_data_validity_test", "--volume", "a", "--length", "12M")
        expect("data is valid" in output, output)


def test_full(programs):
    full(programs, False)


def test_full_buffered(programs):
    full(programs, True)


if __name__ == "__main__":
    REASON = allowed()
    if REASON:
        print(f"skipped: no mount namespace of our own: {REASON}")
        sys.exit(77)
    main([test_full, test_full_buffered], sys.argv[1:])
