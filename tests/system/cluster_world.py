"""A replicated cluster of real processes: targets on disks of the store, a gateway, and who leads which group."""
import json
import os
import re
import signal
import socket
import subprocess
import time

from harness import MIB, SLOW, Failure, expect

# What the programs talk over, and their address: in a guest verbs, and that of its device (tests/guest/cluster_test.py).
LINK = os.environ.get("SLUICE_TEST_LINK", "tcp")
HOST = os.environ.get("SLUICE_TEST_HOST", "127.0.0.1")


def free_ports(count):
    """Ports that nobody has now; the sockets are closed together, so all differ."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind((HOST, 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def make_key(world):
    """What addresses beyond the loopback one ask for."""
    path = f"{world.directory}/key"
    with open(path, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(os.urandom(32).hex())
    return path


class Cluster:
    """Nodes are numbered from 1. `spare`: nodes of the file that no group begins on. `disk_bytes`: of all disks of a node, `log_bytes`
    of them for the logs. `absent`: the address of one more node, which is never there: in the servers' file alone, as tools would
    ask it each time."""

    def __init__(self, world, sluice, nodes=3, replicas=3, groups=2, volumes=("vm=64M",), spare=0, reactors=1, disks=1,
                 addresses=None, key=None, prefix=lambda node: [], disk_bytes=512 * MIB, log_bytes=128 * MIB, absent=None):
        self.world, self.sluice, self.reactors, self.disks = world, sluice, reactors, disks
        self.file = f"{world.directory}/cluster.json"
        self.nodes = range(1, nodes + spare + 1)
        self.targets, self.gateway = {}, None
        self.prefix = prefix  # before a target's command line
        self.disk_bytes, self.log_bytes = disk_bytes, log_bytes
        self.addresses = addresses or {node: f"{HOST}:{port}"
                                       for node, port in zip(self.nodes, free_ports(nodes + spare))}
        if key is None and HOST != "127.0.0.1":
            key = make_key(world)
        first = [part for node in list(self.nodes)[:nodes] for part in ("--node", f"{node}={self.addresses[node]}")]
        self.run("cluster", "create", *first, "--replicas", replicas, "--groups", groups,
                 *(["--cluster-key-file", key] if key else []),
                 *[part for volume in volumes for part in ("--volume", volume)], self.file)
        self.add_nodes(self.file, {node: self.addresses[node] for node in list(self.nodes)[nodes:]})
        self.servers_file = self.file
        if absent is not None:
            self.servers_file = f"{world.directory}/servers.json"
            self.add_nodes(self.servers_file, {len(self.nodes) + 1: absent})
        for node in self.nodes:
            self.format(node)
            self.start(node)
        for node in self.nodes:
            self.ready(node)

    def add_nodes(self, path, addresses):
        """The cluster file with more nodes, as `path`."""
        with open(self.file) as file:
            text = json.load(file)
        text["nodes"] += [{"id": node, "address": address} for node, address in addresses.items()]
        with open(path, "w") as file:
            json.dump(text, file)

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

    def log_bytes_of(self, node):
        return self.log_bytes[node] if isinstance(self.log_bytes, dict) else self.log_bytes

    def format(self, node):
        for number in range(self.disks):
            path = self.disk(node, number)
            if os.path.exists(path):
                os.unlink(path)
            self.world.file(os.path.basename(path), self.disk_bytes // self.disks)
            self.run("disk", "format", "--shards", max(1, self.reactors // self.disks), "--log",
                     f"{self.log_bytes_of(node) // self.disks // MIB}M", "--segment", "4M", path)

    def start(self, node, *more):
        self.targets[node] = self.serve(node, [self.disk(node, number) for number in range(self.disks)], *more)

    def serve(self, node, paths, *more):
        """A target for the node with these disks; it is not one of the cluster's yet."""
        return self.world.serve(f"node{node}-", [
            *self.prefix(node), self.world.target_program, "-d", LINK, "--cluster", self.servers_file, "--node", node,
            "--reactors", self.reactors,
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

    def group(self, what, *arguments, **more):
        """sluice group, as run()."""
        return self.run("group", what, "--cluster", self.file, "-d", LINK, *arguments, **more)

    def create(self):
        self.group("create")
        self.wait_served()
        return self

    def status(self):
        """{group: {node: replica}}, as `sluice group status` says; a replica that is not there has an "error"."""
        text = self.group("status", "--json", status=None, errors=subprocess.DEVNULL)
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
            time.sleep(0.1 * SLOW)  # asking is work, too
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

    def lead(self, node):
        """It leads every group from now on."""
        for group in self.status():
            if self.leader(group) != node:
                self.group("transfer-leader", "--group", group, "--node", node)

    def lose_disk(self, node, meanwhile=lambda: None):
        """Its disk is gone for good: the node comes back with an empty one, as a learner under new ids, is filled, and votes again."""
        old = {group: next(member["replica"] for replica in replicas.values() if "members" in replica
                           for member in replica["members"] if member["node"] == node)
               for group, replicas in self.status().items()}
        self.kill(node)
        self.format(node)
        self.start(node)
        self.ready(node)
        meanwhile()
        for group, replica in old.items():
            where = ("--group", group, "--node", node)
            self.leader(group)
            self.group("remove", *where, "--replica", replica)
            self.group("add-learner", *where)
            self.group("promote", *where)

    # ---- the gateway ----

    def start_gateway(self, *more):
        self.gateway = self.world.serve("gateway", [self.world.gateway_program, "-d", LINK, "--cluster", self.servers_file, *more])
        self.gateway.wait_for("ready: command channel")
        return self.gateway

    def volume(self, name="vm"):
        with open(self.file) as file:
            return next(volume for volume in json.load(file)["volumes"] if volume["name"] == name)


def errors_of(server):
    return [line for line in server.text().splitlines() if re.search(r" (ERROR|FATAL) ", line)]
