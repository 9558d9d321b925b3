#!/usr/bin/env python3
"""Goal: a target on a disk of the store loses nothing that it acknowledged, whatever kills it; `sluice disk` shows,
checks and reads out what lies there; a disk that is not right is refused with a clear word.

Method: the real programs. Rounds of kill -9 under a client that remembers what was acknowledged (journal_client.c);
bytes turned on the disk must be found; the wrong disks are opened. STORE_ROUNDS: how many kills (default 6)."""
import os
import random
import signal
import subprocess
import sys
import time

from harness import MIB, Journal, World, expect, main, turn

DISK = 192 * MIB
ROUNDS = int(os.environ.get("STORE_ROUNDS", "6"))
SEED = int(os.environ.get("STORE_SEED", "1"))
SLUICE = JOURNAL = None


def disk(world, *arguments, status=0, binary=False):
    process = subprocess.run([SLUICE, "disk", *[str(a) for a in arguments]], capture_output=True, timeout=120,
                             env=world.environment)
    text = process.stderr.decode() + ("" if binary else process.stdout.decode())
    expect(process.returncode == status, f"sluice disk {arguments} ended with {process.returncode}:\n{text}")
    return process.stdout if binary else text


def formatted(world, *more, size=DISK):
    path = world.file("disk", size)
    disk(world, "format", path, *more)
    return path


def test_kill(programs):
    rng = random.Random(SEED)
    with World(programs) as world:
        path = formatted(world)
        target = world.target("tcp", f"store:{path}")
        listen = target.address()
        world.gateway("tcp", [listen])
        for number in range(ROUNDS):
            journal = Journal(world, JOURNAL, 1).loading()
            time.sleep(rng.random() * 0.5)
            target.kill()
            world.forget(target)
            if number % 3 == 2:
                disk(world, "check", path)
            target = world.target("tcp", f"store:{path}", listen=listen)
            target.address()
            journal.progress(50)
            journal.finish()
        Journal(world, JOURNAL, 1, mode="check").finish()
        target.stop()
        world.forget(target)
        expect("nothing is wrong" in disk(world, "check", path), "check")
        print(f"{ROUNDS} rounds of kill -9, seed {SEED}: nothing acknowledged was lost; the disk is whole", flush=True)


def test_tools(programs):
    with World(programs) as world:
        path = formatted(world, "--shards", 2, size=700 * MIB)
        expect("formats it nevertheless" in disk(world, "format", path, status=1), "format twice")
        target = world.target("tcp", f"store:{path}", "--reactors", 2)
        world.gateway("tcp", [target.address()])
        content = world.file("content", 40 * MIB)
        with open(content, "wb") as file:
            file.write(random.Random(7).randbytes(40 * MIB - 4096))
            file.truncate(40 * MIB)
        output = world.run("--execution-strategy", "read_write_data_validity_test", "--storage-plain-content", content)
        expect("data is valid" in output, output)
        expect("a process serves it" in disk(world, "check", path, status=1), "lock")
        target.stop()
        world.forget(target)
        dumped = disk(world, "dump", path, "--offset", 4096 * 3, "--length", 39 * MIB, binary=True)
        expect(dumped == open(content, "rb").read()[4096 * 3:4096 * 3 + 39 * MIB], "what is dumped differs")
        text = disk(world, "inspect", path)
        expect("group 1: log behind" in text and "shard 1:" in text, text)
        expect("nothing is wrong" in disk(world, "check", path), "check")
        damage(world, path)


def damage(world, path):
    """Each byte that is turned in data is found, and only that."""
    marker = open(f"{world.directory}/content", "rb").read(20 * MIB)[5 * MIB:5 * MIB + 32]
    data = open(path, "rb").read()
    at = data.rfind(marker)
    expect(at > 0, "the data is not on the disk as it is")
    turn(path, at)
    text = disk(world, "check", path, status=1)
    expect(text.count("cannot be read") >= 1 and "see above" in text, text)
    turn(path, at)
    expect("nothing is wrong" in disk(world, "check", path), "check")
    for superblock in (0, 65536):
        turn(path, superblock + 100)
        expect("superblock" in disk(world, "check", path, status=1), "superblock")
        turn(path, superblock + 100)


def test_grow_under_load(programs):
    """A disk becomes larger under load: told by SIGHUP, all of its shards on all reactors use it; nothing is lost."""
    with World(programs) as world:
        path = formatted(world, "--shards", 2, "--log", "64M", size=256 * MIB)
        target = world.target("tcp", f"store:{path}", "--reactors", 2)
        world.gateway("tcp", [target.address()])
        was = int(target.wait_for(r"ready: store:\S+ \((\d+)\S* MiB\)").group(1))
        journal = Journal(world, JOURNAL, 1).loading()
        os.kill(target.pid, signal.SIGHUP)
        target.wait_for("shard 0 did not grow: .*(EINVAL)")
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, 512 * MIB)
        expect("SIGHUP makes a target grow it" in disk(world, "grow", path, status=1), "grow of a disk that is served")
        os.kill(target.pid, signal.SIGHUP)
        for shard in range(2):
            target.wait_for(f"shard {shard} grew by [0-9]+ to [0-9]+ regions")
        journal.progress(50)
        journal.finish()
        target.stop()
        world.forget(target)
        expect("nothing is wrong" in disk(world, "check", path), "check")
        target = world.target("tcp", f"store:{path}", "--reactors", 2, listen=target.address())
        now = int(target.wait_for(r"ready: store:\S+ \((\d+)\S* MiB\)").group(1))
        expect(now >= was + 230, f"{was} MiB grew to {now}")
        Journal(world, JOURNAL, 1, mode="check").finish()


def test_refusals(programs):
    with World(programs) as world:
        plain = world.file("plain", 64 * MIB)

        def refused(spec, words, *more):
            process = subprocess.run([programs[0], "-d", "tcp", "-l", "127.0.0.1:0", "--storage", spec, *more],
                                     capture_output=True, text=True, timeout=60)
            expect(process.returncode == 1 and words in process.stderr, f"{spec}: {process.returncode}: {process.stderr}")

        refused(f"store:{plain}", "sluice disk format")
        path = formatted(world)
        for spec in (path, f"file:{path}"): # it was overwritten, with all that it held
            refused(spec, f"serve it as store:{path}")
        refused(f"store:{path}", "number of reactors", "--reactors", "2")
        refused(f"store:{path}", "was never served", "--read-only")
        process = subprocess.run([programs[0], "--storage", f"store:{path}", "--storage", f"store:{plain}"],
                                 capture_output=True, text=True, timeout=60)
        expect(process.returncode == 2 and "needs --cluster" in process.stderr, process.stderr)
        for superblock in (0, 65536):
            turn(path, superblock + 100)
        refused(f"store:{path}", "checksum is wrong")
        for superblock in (0, 65536):
            turn(path, superblock + 100)
        os.truncate(path, DISK - 4 * MIB)
        refused(f"store:{path}", "give it its size back")
        expect("the least" in disk(world, "format", world.file("small", 2 * MIB), status=1), "small")


def test_format(programs):
    """What is not blank is not formatted without --force: an ext4 went, unasked."""
    with World(programs) as world:
        path = world.file("filesystem", 64 * MIB)
        with open(path, "r+b") as file:
            file.seek(1024 + 56)
            file.write(b"\x53\xef")
        text = disk(world, "format", path, status=1)
        expect("something else" in text and "--force" in text, text)
        expect(open(path, "rb").read(1082)[1080:] == b"\x53\xef", "refused, and written nevertheless")
        disk(world, "format", path, "--force")
        expect("formats it nevertheless" in disk(world, "format", path, status=1), "format twice")
        turn(path, 0)
        expect("formats it nevertheless" in disk(world, "format", path, status=1), "its second superblock is not seen")
        sparse = f"{world.directory}/sparse"
        with open(sparse, "wb") as file:
            file.truncate(64 * MIB)
        expect("holes" in disk(world, "format", sparse), "holes")
        expect("holes" not in disk(world, "format", path, "--force"), "holes, where none are")
        expect("is meant" in disk(world, "format", "--buffered", "/dev/null", status=1), "no disk")
        expect("fallocate" not in disk(world, "inspect", f"{world.directory}/none", status=1), "make a file, to inspect it")


def test_interrupt(programs):
    """A command on a disk ends at the first SIGINT: it went on to its end, with a large disk for hours."""
    with World(programs) as world:
        path = formatted(world, size=64 * MIB)
        target = world.target("tcp", f"store:{path}")
        target.address()
        target.stop()
        world.forget(target)
        process = subprocess.Popen([SLUICE, "disk", "dump", path], stdout=subprocess.PIPE)
        expect(len(process.stdout.read(1)) == 1, "dump") # the pipe is full: it is in the midst of it
        process.send_signal(signal.SIGINT)
        try:
            expect(process.wait(20) == -signal.SIGINT, f"dump ended with {process.returncode}")
        finally:
            process.kill()
            process.stdout.close()


def test_output(programs):
    """What could not be printed is an error, whatever the command."""
    with World(programs) as world:
        path = formatted(world, size=64 * MIB)
        target = world.target("tcp", f"store:{path}")
        world.gateway("tcp", [target.address()])
        run = ["--run-limit-operation-count", "1"]
        world.run(*run, "--operation", "write")
        with open("/dev/full", "w") as full:
            def complains(*command):
                done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, env=world.environment)
                expect(done.returncode == 1 and "No space left" in done.stderr, f"{command}: {done.returncode}: {done.stderr}")
            for program in (SLUICE, *programs):
                complains(program, "--help")
            complains(programs[2], *run, "-q")
            complains(programs[2], *run, "-q", "--json")
            target.stop()
            world.forget(target)
            for command in ("check", "inspect", "dump"):
                complains(SLUICE, "disk", command, path)
            complains(SLUICE, "fabric", "list", "--json")
        process = subprocess.Popen([SLUICE, "disk", "dump", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        expect(len(process.stdout.read(4096)) == 4096, "dump")
        process.stdout.close()
        said = process.stderr.read()
        expect(process.wait(60) == 1 and said == b"", f"the reader left, and dump says: {said}")


def test_scrub(programs):
    """A block that rots while nobody reads it is found and reported; the rest is served on."""
    with World(programs) as world:
        path = formatted(world)
        content = world.file("content", 8 * MIB)
        with open(content, "wb") as file:
            file.write(random.Random(9).randbytes(8 * MIB))
        target = world.target("tcp", f"store:{path}")
        world.gateway("tcp", [target.address()])
        output = world.run("--execution-strategy", "read_write_data_validity_test", "--storage-plain-content", content)
        expect("data is valid" in output, output)
        target.stop()
        world.forget(target)
        data = open(path, "rb").read()
        marker = open(content, "rb").read(5 * MIB + 32)[5 * MIB:]
        turn(path, data.rfind(marker))
        target = world.target("tcp", f"store:{path}", "--scrub", "1G")
        target.address()
        target.wait_for("scrub: group 1, chunk 0, block 1280 cannot be read", 60)
        os.kill(target.pid, signal.SIGUSR1)
        target.wait_for("1 damaged")


def test_grow(programs):
    with World(programs) as world:
        path = formatted(world)
        target = world.target("tcp", f"store:{path}")
        world.gateway("tcp", [target.address()])
        content = world.file("content", 20 * MIB)
        with open(content, "wb") as file:
            file.write(random.Random(8).randbytes(20 * MIB))
        output = world.run("--execution-strategy", "read_write_data_validity_test", "--storage-plain-content", content)
        expect("data is valid" in output, output)
        expect("a process serves it" in disk(world, "grow", path, status=1), "grow a served disk")
        target.kill()
        world.forget(target)
        expect("it has" in disk(world, "grow", path, status=1), "grow without more")
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), DISK, 64 * MIB)
        expect("for data" in disk(world, "grow", path), "grow")
        expect("nothing is wrong" in disk(world, "check", path), "check")
        expect(disk(world, "inspect", path).count("extent:") == 2, "extents")
        expect(disk(world, "dump", path, "--length", 20 * MIB, binary=True) == open(content, "rb").read(), "data")
        os.truncate(path, DISK)
        expect("give it its size back" in disk(world, "check", path, status=1), "shrunk after growth")


if __name__ == "__main__":
    SLUICE, JOURNAL = os.path.abspath(sys.argv[4]), sys.argv[5]
    main([test_kill, test_tools, test_scrub, test_grow, test_grow_under_load, test_refusals, test_format, test_interrupt, test_output], sys.argv[1:4] + sys.argv[6:])
