"""A replicated cluster of real processes: targets on disks of the store, a gateway, and who leads which group."""
import json
import os
import re
import signal
import socket
import subprocess
import time

from harness import MIB, SLOW, Failure, expect

DISK = 512 * MIB


def free_ports(count):
    """Ports that nobody has now; the sockets are closed together, so all differ."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Cluster:
    """Nodes are numbered from 1. `spare`: nodes of the file that no group begins on."""

    def __init__(self, world, sluice, nodes=3, replicas=3, groups=2, volumes=("vm=64M",), spare=0, reactors=1, disks=1,
                 addresses=None, key=None, prefix=lambda node: [], disk_bytes=DISK, log_bytes=128 * MIB):
        self.world, self.sluice, self.reactors, self.disks, self.disk_bytes = world, sluice, reactors, disks, disk_bytes
        self.log_bytes = log_bytes
        self.file = f"{world.directory}/cluster.json"
        self.nodes = range(1, nodes + spare + 1)
        self.targets, self.gateway = {}, None
        self.prefix = prefix  # before a target's command line
        self.addresses = addresses or {node: f"127.0.0.1:{port}"
                                       for node, port in zip(self.nodes, free_ports(nodes + spare))}
        first = [part for node in list(self.nodes)[:nodes] for part in ("--node", f"{node}={self.addresses[node]}")]
        self.run("cluster", "create", *first, "--replicas", replicas, "--groups", groups,
                 *(["--cluster-key-file", key] if key else []),
                 *[part for volume in volumes for part in ("--volume", volume)], self.file)
        if spare > 0:
            with open(self.file) as file:
                text = json.load(file)
            text["nodes"] += [{"id": node, "address": self.addresses[node]} for node in list(self.nodes)[nodes:]]
            with open(self.file, "w") as file:
                json.dump(text, file)
        for node in self.nodes:
            self.format(node)
            self.start(node)
        for node in self.nodes:
            self.ready(node)

    def run(self, *arguments, status=0, errors=subprocess.STDOUT):
        """Runs `sluice`; answers what it said."""
        done = subprocess.run([self.sluice, *[str(argument) for argument in arguments]], stdout=subprocess.PIPE,
                              stderr=errors, text=True, timeout=120 * SLOW, env=self.world.environment)
        expect(status is None or done.returncode == status,
               f"sluice {' '.join(map(str, arguments))}: status {done.returncode}, not {status}:\n{done.stdout}")
        return done.stdout

    # ---- targets ----

    def disk(self, node, number=0):
        return f"{self.world.directory}/disk{node}" + (f".{number}" if number > 0 else "")

    def format(self, node):
        for number in range(self.disks):
            path = self.disk(node, number)
            if os.path.exists(path):
                os.unlink(path)
            self.world.file(os.path.basename(path), self.disk_bytes // self.disks)
            self.run("disk", "format", "--shards", max(1, self.reactors // self.disks), "--log",
                     f"{self.log_bytes // self.disks // MIB}M", path)

    def start(self, node, *more, disks=None):
        paths = disks or [self.disk(node, number) for number in range(self.disks)]
        self.targets[node] = self.world.serve(f"node{node}-", [
            *self.prefix(node), self.world.target_program, "-d", "tcp", "--cluster", self.file, "--node", node, "--reactors", self.reactors,
            *[part for path in paths for part in ("--storage", f"store:{path}")], *more])

    def ready(self, node):
        self.targets[node].wait_for(r"ready: .* at (\S+)", timeout=60)

    def kill(self, node):
        self.targets[node].kill()
        self.world.forget(self.targets.pop(node))

    def stop(self, node):
        self.targets[node].stop()
        self.world.forget(self.targets.pop(node))

    def pause(self, node):
        self.targets[node].process.send_signal(signal.SIGSTOP)

    def resume(self, node):
        self.targets[node].process.send_signal(signal.SIGCONT)

    # ---- groups ----

    def create(self):
        self.run("group", "create", "--cluster", self.file)
        self.wait_served()
        return self

    def status(self):
        """{group: {node: replica}}, as `sluice group status` says; a replica that is not there has an "error"."""
        text = self.run("group", "status", "--cluster", self.file, "--json", status=None,
                        errors=subprocess.DEVNULL)
        try:
            return {group["group"]: {replica["node"]: replica for replica in group["replicas"]}
                    for group in json.loads(text)}
        except ValueError:
            raise Failure(f"sluice group status says:\n{text}") from None

    def wait_for(self, what, condition, limit=60 * SLOW):
        """Waits until condition(status) holds."""
        deadline = time.monotonic() + limit
        while not condition(status := self.status()):
            expect(time.monotonic() < deadline, f"{what}: not within {limit} s: {json.dumps(status, indent=1)}")
            time.sleep(0.1)
        return status

    def leader(self, group=1):
        """The node that leads it; waits for an election."""
        status = self.wait_for(f"group {group} is led", lambda now: any(
            replica.get("serving") for replica in now[group].values()))
        return max((replica["term"], node) for node, replica in status[group].items() if replica.get("serving"))[1]

    def wait_served(self):
        self.wait_for("all groups are led", lambda now: all(
            any(replica.get("serving") for replica in replicas.values()) for replicas in now.values()))

    def wait_equal_enough(self):
        """Until all are there and have what was committed when this began, while writes go on."""
        begun = {}

        def near(now):
            for group, replicas in now.items():
                if any("error" in replica for replica in replicas.values()):
                    return False
                known = begun.setdefault(group, max(replica["commit"] for replica in replicas.values()))
                if any(replica["applied"] < known for replica in replicas.values()):
                    return False
            return all(any(replica.get("serving") for replica in replicas.values()) for replicas in now.values())
        return self.wait_for("replicas follow", near)

    def wait_equal(self):
        """Until all members of each group have applied the same."""
        def equal(now):
            return all("error" not in replica for replicas in now.values() for replica in replicas.values()) and all(
                len({(replica["applied"], replica["commit"]) for replica in replicas.values()}) == 1
                for replicas in now.values())
        return self.wait_for("replicas are equal", equal)

    # ---- the gateway ----

    def start_gateway(self, *more):
        self.gateway = self.world.serve("gateway", [self.world.gateway_program, "-d", "tcp", "--cluster", self.file, *more])
        self.gateway.wait_for("ready: command channel")
        return self.gateway

    def volume(self, name="vm"):
        with open(self.file) as file:
            return next(volume for volume in json.load(file)["volumes"] if volume["name"] == name)


def errors_of(server):
    return [line for line in server.text().splitlines() if re.search(r" (ERROR|FATAL) ", line)]
