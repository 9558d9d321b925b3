#!/usr/bin/env python3
"""Goal: initiator, gateway and target move the right bytes, over each fabric, on one reactor and on two, several of each
at once, apart and in one process; and copy none of them but for the reasons allowed.

Method: the initiator's validity tests with several sizes and patterns; the targets' files read from outside by the
stripe map; the copy counters of --json."""
import os
import random
import sys

from harness import MIB, SLOW, World, expect, main

SIZES = [("4K", 128), ("64K", 32), ("1M", 8), ("8200K", 3)]
LENGTH = "24M" if SLOW == 1 else "12M"


def validity(world, fabric, size, depth, *more):
    return world.run("--execution-strategy", "read_write_data_validity_test", "--io-size", size, "--transaction-count",
                     depth, "--length", LENGTH, "--json", *more, fabric=fabric)


def all_sizes(world, fabric):
    for number, (size, depth) in enumerate(SIZES):
        pattern = ["--pattern", "rand"] if number % 2 else []
        validity(world, fabric, size, depth, "--cpu", 0, "--cpu", 1, "--seed", number + 1, *pattern)


def separate(programs, fabric, reactors, kind):
    with World(programs) as world:
        storage = f"file:{world.file('disk', 32 * MIB)}" if kind == "file" else "mem:32M"
        target = world.target(fabric, storage, "--reactors", reactors)
        world.gateway(fabric, [target.address()], "--reactors", reactors)
        all_sizes(world, fabric)


def test_tcp_mem(programs):
    separate(programs, "tcp", 1, "mem")


def test_tcp_file_two_reactors(programs):
    separate(programs, "tcp", 2, "file")


def test_shm_file(programs):
    separate(programs, "shm", 1, "file")


def test_shm_mem_two_reactors(programs):
    separate(programs, "shm", 2, "mem")


def test_ofi_file(programs):
    separate(programs, "ofi+tcp", 1, "file")


def test_ofi_mem_two_reactors(programs):
    separate(programs, "ofi+tcp", 2, "mem")


def test_reactors_differ(programs):
    with World(programs) as world:
        target = world.target("tcp", "mem:48M", "--reactors", 2)
        world.gateway("tcp", [target.address()])
        all_sizes(world, "tcp")


def one_process(programs, reactors, storage):
    with World(programs) as world:
        spec = storage if storage != "file" else f"file:{world.file('disk', 48 * MIB)}"
        server = world.serve("target", [programs[0], "-d", "tcp", "--storage", spec, "--gateway", "--reactors", reactors])
        server.wait_for("ready: command channel")
        all_sizes(world, "tcp")


def test_one_process(programs):
    one_process(programs, 1, "mem:32M")
    one_process(programs, 2, "file")


def many(programs, fabric):
    """Two targets on two reactors each, two striped volumes, two initiators at once."""
    with World(programs) as world:
        files = [world.file(f"disk{i}", 40 * MIB) for i in range(2)]
        targets = [world.target(fabric, f"file:{path}", "--reactors", 2) for path in files]
        world.gateway(fabric, [target.address() for target in targets], "--reactors", 2, "--volume", "a:30M",
                      "--volume", "b:20M", "--stripe-size", "256K")
        content = f"{world.directory}/content"
        data = random.Random(1).randbytes(20 * MIB + 12345)
        with open(content, "wb") as file:
            file.write(data)
        first = world.initiator("--volume", "a", "--execution-strategy", "read_write_data_validity_test",
                                "--storage-plain-content", content, "--io-size", "128K", fabric=fabric)
        second = world.initiator("--volume", "b", "--execution-strategy", "read_write_data_validity_test", "--cpu", 0,
                                 "--cpu", 1, "--pattern", "rand", fabric=fabric)
        world.finish(first)
        world.finish(second)
        world.run("--volume", "a", "--execution-strategy", "read_only_data_validity_test", "--storage-plain-content",
                  content, "--io-size", "4K", "--pattern", "rand", fabric=fabric)
        stripe = 256 << 10
        handles = [open(path, "rb") for path in files]
        for offset in range(0, len(data), stripe):
            number = offset // stripe
            handles[number % 2].seek(number // 2 * stripe)
            piece = data[offset:offset + stripe]
            expect(handles[number % 2].read(len(piece)) == piece, f"stripe {number} of volume a is not in its file")
        flip(content, 5 * MIB + 77)
        output = world.run("--volume", "a", "--execution-strategy", "read_only_data_validity_test",
                           "--storage-plain-content", content, status=1, fabric=fabric)
        expect(f"the first at byte {(5 * MIB + 77) // 4096 * 4096}" in output, output)


def flip(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
        file.flush()
        os.fsync(file.fileno())


def test_many_tcp(programs):
    many(programs, "tcp")


def test_many_shm(programs):
    many(programs, "shm")


def test_damaged_block(programs):
    """A byte that changes under the target is never returned."""
    for fabric in ("tcp", "shm"):
        with World(programs) as world:
            path = world.file("disk", 8 * MIB)
            target = world.target(fabric, f"file:{path}")
            world.gateway(fabric, [target.address()])
            world.run("--execution-strategy", "read_write_data_validity_test", "--seed", 5, fabric=fabric)
            flip(path, 3 * MIB + 5)
            output = world.run("--execution-strategy", "read_only_data_validity_test", "--seed", 5, status=1,
                               fabric=fabric)
            expect("Checksum mismatch" in output, output)
            target.wait_for("fails its checksum")
            world.run("--execution-strategy", "read_write_data_validity_test", "--seed", 6, fabric=fabric)


def copied(result, who):
    return {reason: count for reason, count in result["copied_bytes"][who].items() if count}


def test_copies(programs):
    """0 payload bytes copied by gateway and target on files; on memory, its one reason."""
    for fabric in ("tcp", "shm"):
        for kind in ("file", "mem"):
            with World(programs) as world:
                storage = f"file:{world.file('disk', 16 * MIB)}" if kind == "file" else "mem:16M"
                target = world.target(fabric, storage)
                world.gateway(fabric, [target.address()])
                for size in ("4K", "64K", "1M"):
                    for operation in ("write", "read"):
                        result = world.run("--operation", operation, "--io-size", size, "--transaction-count", 8,
                                           "--run-limit-operation-count", 200, "--json", fabric=fabric)
                        expect(copied(result, "gateway") == {}, f"{fabric} {kind} {operation} {size}: {result}")
                        got = copied(result, "targets")
                        if kind == "file" or (operation == "read" and fabric == "tcp"):
                            expect(got == {}, f"{fabric} {kind} {operation} {size}: {got}")
                        else:
                            expect(got == {"mem-backend": result["all"]["bytes"]},
                                   f"{fabric} {kind} {operation} {size}: {got}")


def test_no_hugepages(programs):
    with World(programs) as world:
        target = world.target("tcp", "mem:16M", "--no-hugepages")
        world.gateway("tcp", [target.address()], "--no-hugepages")
        validity(world, "tcp", "4K", 32, "--length", "4M")


TESTS = [test_tcp_mem, test_tcp_file_two_reactors, test_shm_file, test_shm_mem_two_reactors, test_ofi_file,
         test_ofi_mem_two_reactors, test_reactors_differ,
         test_one_process, test_many_tcp, test_many_shm, test_damaged_block, test_copies, test_no_hugepages]

if __name__ == "__main__":
    main(TESTS, sys.argv[1:])
