#!/usr/bin/env python3
"""Goal: whatever happens to one node of three at a time, the clients of a replicated volume see no error and no wrong block,
and nothing that was acknowledged is lost; and whatever happens to all of them, nothing that was acknowledged is lost.

Method: real processes over tcp, each target in a network namespace of its own, joined by a bridge. A journal client
(it knows beyond anybody's death what was acknowledged) and the initiator's validity test load the volume. One after the
other, as the seed says, nodes are killed, stopped, cut off (both ways, or one way), given a slow or failing disk, a new
disk; now and then all of them lose power, or the gateway dies. After each fault the client must have gone on, and the
cluster must heal. At the end every node leads every group once, and all blocks are checked.

    chaos_test.py TARGET GATEWAY INITIATOR SLUICE JOURNAL_CLIENT [--seconds N] [--seed S] [--fault NAME]

Skipped (77) where namespaces are forbidden."""
import argparse
import os
import random
import subprocess
import sys
import time

from cluster_world import Cluster, make_key
from harness import MIB, SLOW, Failure, Journal, World, expect

NODES, GROUPS = 3, 3
HANG = 60 * SLOW  # an I/O may take 30 s
LENGTH = 32 * MIB
INSIDE = "SLUICE_CHAOS_INSIDE"


def shell(*command, status=0):
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    expect(status is None or done.returncode == status, f"{' '.join(map(str, command))}: {done.stdout}")


class Network:
    """A bridge; node N has a namespace nN and the address 10.77.0.N behind the wire wN."""

    def __init__(self):
        shell("ip", "link", "set", "lo", "up")
        shell("ip", "link", "add", "br0", "type", "bridge")
        shell("ip", "address", "add", "10.77.0.254/24", "dev", "br0")
        shell("ip", "link", "set", "br0", "up")
        for node in range(1, NODES + 1):
            shell("ip", "netns", "add", f"n{node}")
            shell("ip", "link", "add", f"w{node}", "type", "veth", "peer", "name", "eth0", "netns", f"n{node}")
            shell("ip", "link", "set", f"w{node}", "master", "br0", "up")
            self.inside(node, "address", "add", self.address(node) + "/24", "dev", "eth0")
            self.inside(node, "link", "set", "eth0", "up")
            self.inside(node, "link", "set", "lo", "up")

    @staticmethod
    def address(node):
        return f"10.77.0.{node}"

    @staticmethod
    def inside(node, *arguments):
        shell("ip", "-n", f"n{node}", *arguments)

    def cut(self, node):
        shell("ip", "link", "set", f"w{node}", "down")

    def mute(self, node):
        """What it sends is lost; it hears everything."""
        for other in [*range(1, NODES + 1), 254]:
            if other != node:
                self.inside(node, "route", "add", "blackhole", self.address(other) + "/32")

    def heal(self, node):
        shell("ip", "link", "set", f"w{node}", "up")
        for other in [*range(1, NODES + 1), 254]:
            shell("ip", "-n", f"n{node}", "route", "del", "blackhole", self.address(other) + "/32", status=None)


class Chaos:
    def __init__(self, world, programs, rng):
        self.world, self.programs, self.rng = world, programs, rng
        self.network = Network()
        self.cluster = Cluster(world, programs[3], nodes=NODES, groups=GROUPS, key=make_key(world),
                               addresses={node: f"{Network.address(node)}:7600" for node in range(1, NODES + 1)},
                               prefix=lambda node: ["ip", "netns", "exec", f"n{node}"]).create()
        self.cluster.start_gateway()
        self.journal = self.initiator = None
        self.slowest = {}
        self.count = {}

    # ---- clients ----

    def start_clients(self):
        self.journal = Journal(self.world, self.programs[4], 1, "load", 0, LENGTH).loading()
        self.start_initiator()

    def start_initiator(self):
        self.initiator = self.world.initiator(
            "--execution-strategy", "read_write_data_validity_test", "--offset", LENGTH, "--length", "24M", "--io-size",
            self.rng.choice(["4K", "64K", "1M"]), "--transaction-count", 8, "--seed", self.rng.randrange(1, 1 << 30),
            "--control-timeout", "60s")

    def check_initiator(self):
        """Its test over and over: each time all it read must be what it wrote."""
        if self.initiator.poll() is not None:
            self.finish_initiator()
            self.start_initiator()

    def finish_initiator(self):
        output = self.world.finish(self.initiator, 0, timeout=300)
        expect("data is valid" in output, output)

    def goes_on(self, kind, operations=40):
        seconds = self.journal.progress(operations, HANG)
        self.slowest[kind] = max(seconds, self.slowest.get(kind, 0))

    # ---- faults: of one node ----

    def kill(self, node):
        self.cluster.kill(node)
        self.goes_on("kill")
        self.cluster.start(node)

    def stop_in_order(self, node):
        self.cluster.stop(node)
        self.goes_on("end in order")
        self.cluster.start(node)

    def pause(self, node):
        self.cluster.pause(node)
        self.goes_on("stop")
        time.sleep(self.rng.uniform(0, 2))
        self.cluster.resume(node)

    def cut(self, node):
        self.network.cut(node)
        self.goes_on("cut")
        time.sleep(self.rng.uniform(0, 2))
        self.network.heal(node)

    def mute(self, node):
        self.network.mute(node)
        self.goes_on("mute")
        self.network.heal(node)

    def slow_disk(self, node):
        self.cluster.kill(node)
        self.cluster.start(node, "--inject", "disk:delay=30ms,p=0.05")
        self.goes_on("slow disk", 200)
        self.cluster.kill(node)
        self.cluster.start(node)

    def failing_disk(self, node):
        self.cluster.kill(node)
        error = self.rng.choice(["EIO", "ENOSPC"])
        self.cluster.start(node, "--inject", f"disk:error={error},op=write,after={self.rng.randrange(20, 400)}")
        self.goes_on("failing disk", 200)
        self.cluster.kill(node)
        self.cluster.start(node)

    def new_disk(self, node):
        self.cluster.lose_disk(node, lambda: self.goes_on("new disk"))

    # ---- of all ----

    def power_loss(self, node):
        """All at once; what was acknowledged is there."""
        for each in self.cluster.nodes:
            self.cluster.kill(each)
        time.sleep(self.rng.uniform(0, 1))
        for each in self.cluster.nodes:
            self.cluster.start(each)
        self.goes_on("power loss")

    def gateway_dies(self, node):
        self.cluster.gateway.kill()
        self.world.forget(self.cluster.gateway)
        self.journal.process.wait(HANG)
        self.journal.process.communicate()
        try:
            self.initiator.communicate(timeout=HANG)
        except subprocess.TimeoutExpired:
            raise Failure("an initiator outlives its gateway") from None
        self.cluster.start_gateway()
        self.start_clients()

    FAULTS = [kill, kill, stop_in_order, pause, pause, cut, cut, mute, mute, slow_disk, failing_disk, new_disk, power_loss,
              gateway_dies]

    def round(self, fault):
        # The leader of some group more often than not.
        node = self.rng.choice([self.cluster.leader(self.rng.randrange(1, GROUPS + 1)), self.rng.randrange(1, NODES + 1)])
        name = fault.__name__
        began = time.monotonic()
        try:
            fault(self, node)
            self.cluster.wait_equal_enough()
            self.goes_on("between faults", 20)
            self.check_initiator()
        except Failure as failure:
            raise Failure(f"{name} of node {node}: {failure}\n{self.holdings()}") from None
        self.count[name] = self.count.get(name, 0) + 1
        print(f"round {sum(self.count.values())}: {name} of node {node}; {time.monotonic() - began:.1f} s", flush=True)

    def holdings(self):
        """What each server holds, to see who waits for what."""
        lines = []
        for server in [*self.cluster.targets.values(), self.cluster.gateway]:
            try:
                lines.append(f"{server.name} holds {server.holdings().counts}")
            except Failure as failure:
                lines.append(f"{server.name}: {str(failure).splitlines()[0]}")
        return "\n".join(lines)

    def end(self):
        self.finish_initiator()
        self.journal.finish()
        self.cluster.wait_equal()
        for node in self.cluster.nodes:
            self.cluster.lead(node)
            Journal(self.world, self.programs[4], 1, "verify", 0, LENGTH).finish()


def run(programs, seconds, seed, only):
    rng = random.Random(seed)
    deadline = time.monotonic() + seconds
    with World(programs[:3]) as world:
        chaos = Chaos(world, programs, rng)
        chaos.start_clients()
        faults = []
        while time.monotonic() < deadline:
            wanted = [fault for fault in Chaos.FAULTS if not only or fault.__name__ in only]
            faults = faults or rng.sample(wanted, len(wanted))
            chaos.round(faults.pop())
        chaos.end()
        return chaos


def inside():
    """This test again, as root of namespaces of its own; 77 if that is forbidden."""
    unshare = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--net", "--mount"]
    setup = "mount -t tmpfs none /run && mkdir /run/netns && ip netns add probe && ip netns del probe"
    try:
        probe = subprocess.run([*unshare, "sh", "-c", f"{setup} && ip link add p0 type veth peer name p1 && "
                                                      "ip link add b0 type bridge"],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        text, status = probe.stdout, probe.returncode
    except FileNotFoundError as error:
        text, status = str(error), 1
    if status != 0:
        print(f"SKIPPED: no network namespaces here: {text.strip()}")
        sys.exit(77)
    os.environ[INSIDE] = "1"
    os.execvp(unshare[0], [*unshare, "sh", "-c", f"{setup} && exec \"$@\"", "sh", sys.executable, *sys.argv])


def main():
    parser = argparse.ArgumentParser(description="breaks a replicated cluster of real processes")
    parser.add_argument("programs", nargs=5)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fault", action="append", default=[], help="only these, by name; repeatable")
    options = parser.parse_args()
    if INSIDE not in os.environ:
        inside()
    began = time.monotonic()
    print(f"seed {options.seed}", flush=True)
    try:
        chaos = run([os.path.abspath(program) for program in options.programs], options.seconds, options.seed, options.fault)
    except Failure as failure:
        print(f"FAILED with seed {options.seed}: {failure}", flush=True)
        sys.exit(1)
    slowest = ", ".join(f"{kind} {seconds:.2f} s" for kind, seconds in sorted(chaos.slowest.items()))
    counts = ", ".join(f"{name} {count}" for name, count in sorted(chaos.count.items()))
    print(f"{sum(chaos.count.values())} rounds, seed {options.seed}: {counts}; slowest until I/O went on: {slowest}; "
          f"{time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
