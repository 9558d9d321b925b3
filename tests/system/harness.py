"""What the tests of whole programs share: a private directory, programs that are started, awaited and ended by pid, and
the check that nothing is left behind."""
import collections
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

# Sanitizer builds are several times slower.
SLOW = float(os.environ.get("SLUICE_TEST_SLOW", "1"))
MIB = 1 << 20


HOLDS = re.compile(r"reactor \d+ holds (\d+) bytes in (\d+) buffers, (\d+) of them for capsules; (\d+) arenas of (\d+) bytes; "
                   r"(\d+) maps of clients' memory, (\d+) connections, (\d+) coroutines, (\d+) of them waiting")


# counts: to be equal at rest. anonymous_bytes: the heap. shared_bytes: resident beyond the arenas.
Holdings = collections.namedtuple("Holdings", "counts anonymous_bytes shared_bytes")


class Failure(Exception):
    pass


def expect(condition, text):
    if not condition:
        raise Failure(text)


class Server:
    def __init__(self, world, name, command):
        self.world = world
        self.name = name
        self.command = command
        self.log_path = f"{world.directory}/{name}.log"
        self.log = open(self.log_path, "ab")
        self.begin = self.log.tell()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)

    @property
    def pid(self):
        return self.process.pid

    def text(self):
        with open(self.log_path, "rb") as file:
            file.seek(self.begin)
            return file.read().decode(errors="replace")

    def wait_for(self, pattern, timeout=20):
        deadline = time.monotonic() + timeout * SLOW
        while time.monotonic() < deadline:
            found = re.search(pattern, self.text())
            if found:
                return found
            expect(self.process.poll() is None,
                   f"{self.name} ended with {self.process.returncode} before '{pattern}':\n{self.text()}")
            time.sleep(0.01)
        raise Failure(f"{self.name} did not say '{pattern}':\n{self.text()}")

    def address(self):
        return self.wait_for(r"ready: .* at (\S+)").group(1)

    def stop(self, status=0, timeout=20):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout * SLOW)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failure(f"{self.name} did not end after SIGTERM:\n{self.text()}")
        expect(self.process.returncode == status, f"{self.name} ended with {self.process.returncode}:\n{self.text()}")

    def kill(self):
        self.world.killed = True
        self.process.kill()
        self.process.wait()

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def holdings(self):
        """What it says at SIGUSR1 that it holds, summed over its reactors, and what the kernel says. What grows to the
        most that was ever needed (arenas, capsules to send) is left out of the sums."""
        expect(self.process.poll() is None, f"{self.name} ended with {self.process.returncode}:\n{self.text()}")
        begin = os.path.getsize(self.log_path)
        self.process.send_signal(signal.SIGUSR1)
        reactors = int(self.command[self.command.index("--reactors") + 1]) if "--reactors" in self.command else 1
        deadline = time.monotonic() + 20 * SLOW
        lines = []
        while len(lines) < reactors:
            expect(time.monotonic() < deadline, f"{self.name} does not say what it holds:\n{self.text()}")
            time.sleep(0.002)
            with open(self.log_path, "rb") as file:
                file.seek(begin)
                lines = HOLDS.findall(file.read().decode(errors="replace"))
        sums = [sum(int(line[column]) for line in lines) for column in range(len(lines[0]))]
        used, buffers, capsules, arenas, arena_bytes, maps, connections, coroutines, waiting = sums
        memory = {key: int(value) * 1024 for key, value in
                  re.findall(r"(Rss\w+):\s+(\d+) kB", open(f"/proc/{self.pid}/status").read())}
        return Holdings({"bytes": used - capsules, "buffers": buffers - capsules // 4096, "maps": maps,
                         "connections": connections, "coroutines": coroutines, "waiting": waiting,
                         "descriptors": self.descriptors() - arenas, "shared maps": self.client_maps() - arenas},
                        memory["RssAnon"], memory["RssShmem"] - arena_bytes)

    def rest(self):
        """What it holds, once it holds the same twice."""
        deadline = time.monotonic() + 20 * SLOW
        last = self.holdings()
        while True:
            time.sleep(0.4)
            now = self.holdings()
            if now.counts == last.counts:
                return now
            expect(time.monotonic() < deadline, f"{self.name} does not come to rest: {last.counts}, {now.counts}")
            last = now

    def wait_for_rest(self, counts, limit=60 * SLOW):
        """Waits until it holds what it held before."""
        deadline = time.monotonic() + limit
        while (now := self.holdings()).counts != counts:
            different = {key: f"{counts[key]} before, {value} now" for key, value in now.counts.items()
                         if value != counts[key]}
            expect(time.monotonic() < deadline, f"{self.name} does not give back: {different}")
            time.sleep(0.25)
        return now

    def client_maps(self):
        with open(f"/proc/{self.pid}/maps") as file:
            return sum("memfd:sluice" in line for line in file)


class Journal:
    """journal_client.c: a load that knows beyond anybody's death which of its writes were acknowledged."""

    def __init__(self, world, program, seed, mode="load", offset=0, length=24 * MIB, volume="", depth=16):
        self.world = world
        self.path = f"{world.directory}/journal"
        self.loads = mode == "load"
        if os.path.exists(self.path):
            with open(self.path, "r+b") as file:
                file.seek(16)
                file.write(bytes(8)) # what a former run said about its check
        self.process = subprocess.Popen(
            [str(part) for part in (program, "sluice", volume, self.path, offset, length, seed, depth, mode)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=world.environment)

    def head(self):
        """Operations, writes, 1 = the check of what was there is over, blocks checked."""
        try:
            with open(self.path, "rb") as file:
                return struct.unpack("<4Q", file.read(32))
        except (OSError, struct.error):
            return (0, 0, 0, 0)

    def wait(self, what, condition, limit):
        began = time.monotonic()
        while not condition():
            if self.process.poll() is not None:
                raise Failure(f"journal client ended with {self.process.returncode}:\n{self.process.communicate()}")
            expect(time.monotonic() - began < limit, f"{what}: not within {limit} s")
            time.sleep(0.005)
        return time.monotonic() - began

    def loading(self):
        """Waits until it has checked what it had written before, and is at work."""
        self.wait("the journal client checks what it wrote", lambda: self.head()[2] == 1, 60 * SLOW)
        self.progress(20)
        return self

    def progress(self, count, limit=60 * SLOW):
        """Seconds until it has done so many operations more."""
        before = self.head()[0]
        return self.wait("the journal client's I/O goes on", lambda: self.head()[0] >= before + count, limit)

    def finish(self, status=0):
        """Ends it; answers what it said."""
        if status == 0 and self.loads:
            self.process.terminate()
        output = self.world.finish(self.process, status)
        expect(status != 0 or "data is valid" in output, output)
        return output


def turn(path, at):
    """Turns a bit of the byte at `at` of a file; once more, and it is as before."""
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 16]))
        os.fsync(file.fileno())


class World:
    """with World(arguments) as world: …; at its end every server must stop in order and leave nothing."""

    def __init__(self, programs):
        self.target_program, self.gateway_program, self.initiator_program = programs

    def __enter__(self):
        self.directory = tempfile.mkdtemp(prefix="sl-system-", dir=".")
        self.directory = os.path.abspath(self.directory)
        self.environment = dict(os.environ, SLUICE_RUNTIME_DIR=self.directory)
        os.environ["SLUICE_RUNTIME_DIR"] = self.directory
        self.servers = []
        self.count = 0
        self.killed = False # a killed program cannot remove its socket
        return self

    def __exit__(self, kind, value, trace):
        try:
            for server in reversed(self.servers):
                if kind is None:
                    server.stop()
                elif server.process.poll() is None:
                    server.kill()
            if kind is None:
                left = [name for name in os.listdir(self.directory) if name.endswith((".comch", ".target"))]
                expect(not left or self.killed, f"left behind: {left}")
        finally:
            for server in self.servers:
                if server.process.poll() is None:
                    server.kill()
                if kind is not None:
                    lines = [line for line in server.text().splitlines() if not HOLDS.search(line)]
                    print(f"---- {server.name}\n" + "\n".join(lines))
            shutil.rmtree(self.directory, ignore_errors=True)

    def file(self, name, size):
        path = f"{self.directory}/{name}"
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        return path

    def serve(self, name, command):
        self.count += 1
        server = Server(self, f"{name}{self.count}", [str(part) for part in command])
        self.servers.append(server)
        return server

    def target(self, fabric, storage, *more, listen=None):
        if listen is None:
            listen = f"unix:{self.directory}/t{self.count}.target" if fabric == "shm" else "127.0.0.1:0"
        return self.serve("target", [self.target_program, "-d", fabric, "--storage", storage, "--listen", listen, *more])

    def gateway(self, fabric, addresses, *more):
        servers = [part for address in addresses for part in ("--storage-server", address)]
        server = self.serve("gateway", [self.gateway_program, "-d", fabric, *servers, *more])
        server.wait_for("ready: command channel")
        return server

    def forget(self, server):
        self.servers.remove(server)

    def initiator(self, *arguments, fabric="tcp"):
        return subprocess.Popen([self.initiator_program, "-d", fabric, *[str(a) for a in arguments]],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment)

    def run(self, *arguments, status=0, timeout=60, fabric="tcp"):
        """Runs an initiator to its end; with --json answers the object, else its output."""
        process = self.initiator(*arguments, fabric=fabric)
        return self.finish(process, status, timeout, "--json" in arguments)

    def finish(self, process, status=0, timeout=60, parse=False):
        try:
            output, errors = process.communicate(timeout=timeout * SLOW)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Failure(f"initiator hangs: {process.args}")
        expect(process.returncode == status,
               f"initiator {process.args[1:]} ended with {process.returncode}, not {status}:\n{output}\n{errors}")
        return json.loads(output) if parse else output + errors


def main(tests, programs, count=3):
    """Runs the tests whose names contain a word of those behind the `count` programs, or all; one line each."""
    failed = 0
    words = programs[count:] or [""]
    for test in tests:
        if not any(word in test.__name__ for word in words):
            continue
        began = time.monotonic()
        try:
            test(programs[:count])
            print(f"ok      {test.__name__}  {time.monotonic() - began:.1f} s", flush=True)
        except Failure as failure:
            failed += 1
            print(f"FAILED  {test.__name__}: {failure}", flush=True)
    sys.exit(1 if failed else 0)
