#!/usr/bin/env python3
"""Goal: kill -9 of any program under load loses no acknowledged write, gives no wrong byte, hangs nobody, and leaves
nothing behind in those that survive.

Method: rounds. In each, an initiator (validity test) and a journal client (journal_client.c: it remembers beyond its own
death what was acknowledged) load one volume; one program is killed and started again; the survivors must go on or end
with a clear word; at rest, every server must hold what it held at rest before: buffers, connections, coroutines,
descriptors, maps. At the end of a scene all is stopped in order and no file may be left.

    kill_test.py TARGET GATEWAY INITIATOR JOURNAL_CLIENT [--rounds N] [--seed S] [--hang SECONDS]

Without --rounds each program is killed once in each scene. The seed makes victims, sizes and moments."""
import argparse
import os
import random
import subprocess
import sys
import time

from harness import MIB, SLOW, Failure, Journal, World, expect

DISK = 160 * MIB
JOURNAL_OFFSET, JOURNAL_LENGTH = 128 * MIB, 24 * MIB
# Bytes of an I/O of the initiator, how many at once, and how much of the volume it uses.
LOADS = [("4K", 32, "24M"), ("4K", 128, "32M"), ("12K", 16, "48M"), ("64K", 16, "96M"), ("256K", 8, "128M"),
         ("1M", 8, "128M"), ("3M", 4, "128M")]
# (fabric, gateway and target in one process, reactors)
SCENES = [("tcp", False, 1), ("shm", False, 1), ("tcp", True, 1), ("tcp", False, 2), ("shm", False, 2)]
# The heap keeps what its pools grew to, and fragments; a leak of every round is more than this in the end.
HEAP_GROWTH_MAX = 12 * MIB
# Rings of the shm link become resident as they are used: four connections of 2.4 MiB at most.
SHARED_GROWTH_MAX = 10 * MIB


class Slowest:
    """The longest of each kind of wait, for the last line."""

    def __init__(self):
        self.seconds = {}

    def note(self, kind, seconds):
        self.seconds[kind] = max(seconds, self.seconds.get(kind, 0))

    def __str__(self):
        return ", ".join(f"{kind} {seconds:.2f} s" for kind, seconds in self.seconds.items())


class Scene:
    def __init__(self, world, journal_program, kind, rng, hang, slowest):
        self.world, self.program, self.rng, self.hang, self.slowest = world, journal_program, rng, hang, slowest
        self.fabric, self.combined, self.reactors = kind
        self.seed = rng.randrange(1 << 32)
        self.path = world.file("disk", DISK)
        self.base, self.heap, self.heap_growth = {}, {}, 0
        self.target = self.gateway = None
        self.start_target(None)
        if not self.combined:
            self.gateway = self.start_gateway()
        self.load(verify=True)  # what is made once, at the first use, is there
        self.take_base()

    def victims(self):
        return ["server", "initiator", "journal"] if self.combined else ["target", "gateway", "initiator", "journal"]

    # ---- servers ----

    def start_target(self, listen):
        more = ["--reactors", self.reactors]
        if self.combined:
            more += ["--gateway"]
        self.target = self.world.target(self.fabric, f"file:{self.path}", *more, listen=listen)
        self.listen = self.target.address()
        if self.combined:
            self.target.wait_for("ready: command channel")

    def start_gateway(self):
        return self.world.gateway(self.fabric, [self.listen], "--reactors", self.reactors)

    def servers(self):
        return {"server": self.target} if self.combined else {"target": self.target, "gateway": self.gateway}

    def take_base(self):
        self.base = {role: server.rest().counts for role, server in self.servers().items()}

    def at_rest(self):
        """Waits until the servers hold what they held before."""
        began = time.monotonic()
        for role, server in self.servers().items():
            self.check_memory(role, server, server.wait_for_rest(self.base[role], self.hang))
        self.slowest.note("release", time.monotonic() - began)

    def check_memory(self, role, server, now):
        if SLOW > 1:
            return  # a sanitizer keeps what was freed
        heap, shared = self.heap.setdefault(server.pid, (now.anonymous_bytes, now.shared_bytes))
        self.heap_growth = max(self.heap_growth, now.anonymous_bytes - heap)
        expect(now.anonymous_bytes - heap <= HEAP_GROWTH_MAX,
               f"{role}'s heap grew from {heap >> 10} to {now.anonymous_bytes >> 10} KiB")
        expect(now.shared_bytes - max(shared, 0) <= SHARED_GROWTH_MAX,
               f"{role}'s shared memory beyond its arenas grew from {shared >> 10} to {now.shared_bytes >> 10} KiB")

    # ---- clients ----

    def start_initiator(self, endless):
        size, depth, length = self.rng.choice(LOADS)
        arguments = ["--io-size", size, "--transaction-count", depth, "--length", length, "--seed",
                     self.rng.randrange(1, 1 << 30), *self.rng.choice([[], ["--pattern", "rand"]]),
                     *self.rng.choice([[], ["--cpu", 0, "--cpu", 1]])]
        if endless:
            arguments += ["--operation", "write", "--read-percent", 40, "--run-time", "100s"]
        else:
            arguments += ["--execution-strategy", "read_write_data_validity_test"]
        return self.world.initiator(*arguments, fabric=self.fabric)

    def finish_initiator(self, process):
        output = self.world.finish(process, 0, timeout=90)
        expect("data is valid" in output, output)

    def journal(self, mode):
        return Journal(self.world, self.program, self.seed, mode, JOURNAL_OFFSET, JOURNAL_LENGTH)

    def start_journal(self):
        return self.journal("load").loading()

    def load(self, verify=False):
        journal = self.start_journal()
        initiator = self.start_initiator(False)
        self.finish_initiator(initiator)
        journal.finish()
        if verify:
            self.verify()

    def verify(self):
        self.journal("verify").finish()

    # ---- a round ----

    def round(self, victim):
        journal = self.start_journal()
        initiator = self.start_initiator(victim == "initiator")
        time.sleep(self.rng.uniform(0.02, 0.4))
        getattr(self, f"kill_{victim}")(journal, initiator)
        self.at_rest()

    def kill_target(self, journal, initiator):
        self.target.kill()
        self.world.forget(self.target)
        time.sleep(self.rng.choice([0, 0, 0.1, 0.5]))
        self.start_target(self.listen)
        # One that was under way when it died may have ended before: two.
        self.slowest.note("resume", journal.progress(17, self.hang))
        self.finish_initiator(initiator)
        journal.finish()

    def kill_gateway(self, journal, initiator):
        self.kill_front("gateway", journal, initiator)
        self.gateway = self.start_gateway()
        self.at_rest()
        self.load()

    def kill_server(self, journal, initiator):
        self.kill_front("target", journal, initiator)
        self.start_target(self.listen)
        self.at_rest()
        self.load()

    def kill_front(self, which, journal, initiator):
        """What the clients talk to dies: both end and say why."""
        over = initiator.poll() is not None
        server = getattr(self, which)
        server.kill()
        self.world.forget(server)
        began = time.monotonic()
        try:
            journal.process.wait(self.hang)
            initiator.wait(self.hang)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.hang} s after its gateway was killed a client is still there") from None
        self.slowest.note("clients end", time.monotonic() - began)
        output = journal.finish(1)
        expect("ECONNRESET" in output, output)
        if over:
            self.finish_initiator(initiator)
            return
        output = self.world.finish(initiator, initiator.returncode, timeout=1)
        expect(initiator.returncode == 1 and ("reset" in output.lower() or "FAILED" in output) or
               initiator.returncode == 0 and "data is valid" in output, output)

    def kill_initiator(self, journal, initiator):
        initiator.kill()
        initiator.communicate()
        self.slowest.note("resume", journal.progress(17, self.hang))
        journal.finish()

    def kill_journal(self, journal, initiator):
        journal.process.kill()
        journal.process.communicate()
        self.finish_initiator(initiator)
        # What it had sent may land until the gateway has given up its session.
        self.at_rest()
        self.verify()

    def close(self):
        self.verify()
        for role in reversed(list(self.servers())):
            server = self.servers()[role]
            server.stop()
            self.world.forget(server)
        left = sorted(set(os.listdir(self.world.directory)) - {"disk", "disk.sluice-crc", "journal", "tmp"})
        left = [name for name in left if not name.endswith(".log")] + os.listdir(f"{self.world.directory}/tmp")
        expect(not left, f"left behind: {left}")


def hugepages_free():
    with open("/proc/meminfo") as file:
        return {line.split(":")[0]: line.split()[1] for line in file if line.startswith("HugePages_")}


def scene(programs, kind, rounds, rng, hang, slowest, done):
    name = f"{kind[0]}{', one process' if kind[1] else ''}, {kind[2]} reactor{'s' if kind[2] > 1 else ''}"
    shared = set(os.listdir("/dev/shm"))
    huge = hugepages_free()
    with World(programs[:3]) as world:
        os.mkdir(f"{world.directory}/tmp")
        os.environ["TMPDIR"] = world.environment["TMPDIR"] = f"{world.directory}/tmp"
        play = Scene(world, programs[3], kind, rng, hang, slowest)
        victims = []
        for _ in range(rounds if rounds is not None else len(play.victims())):
            if not victims:
                victims = rng.sample(play.victims(), len(play.victims()))
            victim = victims.pop()
            began = time.monotonic()
            try:
                play.round(victim)
            except Failure as failure:
                raise Failure(f"round {sum(done.values()) + 1} ({name}; {victim} killed): {failure}") from None
            done[victim] = done.get(victim, 0) + 1
            print(f"round {sum(done.values())}: {name}; {victim} killed; {time.monotonic() - began:.1f} s", flush=True)
        play.close()
        grown = play.heap_growth
    # Hugepages of other programs come and go; of ours, none may stay.
    expect(hugepages_free()["HugePages_Total"] == "0" or
           int(hugepages_free()["HugePages_Free"]) >= int(huge["HugePages_Free"]), "hugepages are missing")
    left = {entry for entry in set(os.listdir("/dev/shm")) - shared if "sluice" in entry}
    expect(not left, f"left behind in /dev/shm: {left}")
    return grown


def main():
    parser = argparse.ArgumentParser(description="kills programs under load, round after round")
    parser.add_argument("programs", nargs=4)
    parser.add_argument("--rounds", type=int, help="over all scenes, 5 at a time; default: a short form")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hang", type=float, default=60 * SLOW, help="seconds that nobody may wait in vain")
    options = parser.parse_args()
    programs = [os.path.abspath(program) for program in options.programs]
    rng = random.Random(options.seed)
    slowest, done, grown, began = Slowest(), {}, 0, time.monotonic()
    print(f"seed {options.seed}", flush=True)
    try:
        if options.rounds is None:
            for kind in SCENES[:3]:
                grown = max(grown, scene(programs, kind, None, rng, options.hang, slowest, done))
        number = 0
        while options.rounds is not None and sum(done.values()) < options.rounds:
            rounds = min(options.rounds - sum(done.values()), 10)
            grown = max(grown, scene(programs, SCENES[number % len(SCENES)], rounds, rng, options.hang, slowest, done))
            number += 1
    except Failure as failure:
        print(f"FAILED with seed {options.seed}: {failure}", flush=True)
        sys.exit(1)
    victims = ", ".join(f"{name} {count}" for name, count in sorted(done.items()))
    print(f"{sum(done.values())} rounds, seed {options.seed}, killed: {victims}; slowest: {slowest}; heap grew by "
          f"{grown >> 10} KiB at most; {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
