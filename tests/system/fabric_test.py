#!/usr/bin/env python3
"""Goal: `sluice fabric` measures over each link, and whatever is wrong ends within its time with a clear error.

Method: the real program twice on one host; wrong devices, addresses, links, keys and sizes; a server that is stopped
(it polls no more) and one that is killed while it is measured."""
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SLUICE = os.path.abspath(sys.argv[1])
LIMIT = 60
LINKS = {"tcp": ["--listen", "127.0.0.1:0"], "shm": [], "ofi+tcp": ["--listen", "127.0.0.1:0"]}


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


class Server:
    def __init__(self, link, *more):
        self.process = subprocess.Popen([SLUICE, "fabric", "serve", "-d", link, *LINKS[link], *more],
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        line = self.process.stdout.readline()
        expect(" ready at " in line, line)
        self.address = line.rsplit(" at ", 1)[1].strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        status = self.process.wait(timeout=LIMIT)
        self.process.stdout.close()
        expect(status in (0, -signal.SIGKILL), f"the server ended with {status}")


def run(*arguments, status=0):
    done = subprocess.run([SLUICE, "fabric", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=LIMIT)
    expect(done.returncode == status, f"{arguments}: status {done.returncode}, not {status}\n{done.stdout}{done.stderr}")
    return done.stdout if status == 0 else done.stderr


def test_list():
    found = json.loads(run("list", "--json"))
    expect(found["links"] == ["tcp", "shm", "ofi"], found)
    expect(found["choice"]["device"] in ("tcp", "ofi") and found["choice"]["reason"], found)
    expect("choice: -d " in run("list"), "no choice")


def test_measures():
    for link in LINKS:
        with Server(link) as server:
            ping = json.loads(run("ping", "-d", link, "--count", "50", "--json", server.address))["results"]
            expect([r["operation"] for r in ping] == ["send", "read", "write"], ping)
            expect(all(r["operations"] == 50 for r in ping), ping)
            for result in ping:
                latency = result["latency_us"]
                expect(0 < latency["min"] <= latency["p50"] <= latency["p99"] <= latency["max"], latency)
                expect(sum(bucket["count"] for bucket in result["histogram"]) == 50, result)
            # The last is over before it has begun; it measured nothing.
            for size, depth, run_time in (("1", "1", "100ms"), ("4K", "32", "100ms"), ("1M", "600", "100ms"), ("1M", "128", "1ms")):
                bench = json.loads(run("bench", "-d", link, "--run-time", run_time, "--size", size, "--depth", depth,
                                       "--json", server.address))["results"]
                expect(all(r["operations"] > 0 for r in bench), bench)


def test_bad_usage():
    expect("there are:" in run("ping", "-d", "mlx5_77", status=2), "no list of devices")
    expect("there are:" in run("ping", "-d", "ofi:mlx5_77", status=2), "no list of devices")
    run("ping", "-d", "tcp", "--size", "2M", "127.0.0.1:1", status=2)
    expect("--cluster-key-file" in run("ping", "-d", "tcp", "192.0.2.1:1", status=2), "a key is needed")
    run("ping", "--no-such-option", status=2)
    run("pong", status=2)


def test_device_is_down():
    """In a network of its own, where even the loopback interface is down."""
    apart = ["unshare", "--net", "--map-root-user"]
    if subprocess.run([*apart, "true"], stderr=subprocess.DEVNULL).returncode != 0:
        print("skipped: test_device_is_down: no network namespaces here")
        return
    done = subprocess.run([*apart, SLUICE, "fabric", "serve", "-d", "ofi+tcp:lo"], stderr=subprocess.PIPE, text=True,
                          timeout=LIMIT)
    expect(done.returncode == 2 and "is down" in done.stderr and "127.0.0.1, down" in done.stderr, done)


def test_nobody():
    for link in ("tcp", "ofi+tcp"):
        expect("ECONNREFUSED" in run("ping", "-d", link, "127.0.0.1:1", status=1), link)
    run("ping", "-d", "shm", f"unix:{os.environ['SLUICE_RUNTIME_DIR']}/nobody", status=1)


def test_other_link_at_the_other_end():
    for here, there in (("ofi+tcp", "tcp"), ("tcp", "ofi+tcp")):
        with Server(there) as server:
            run("ping", "-d", here, server.address, status=1)
            run("ping", "-d", there, "--count", "1", server.address)


def test_other_key():
    with open(f"{os.environ['SLUICE_RUNTIME_DIR']}/key", "wb") as file:
        file.write(os.urandom(32))
    os.chmod(file.name, 0o600)
    for link in LINKS:
        with Server(link) as server:
            expect("cluster" in run("ping", "-d", link, "-k", file.name, server.address, status=1), link)


def test_server_stops_or_dies():
    for link in LINKS:
        for number in (signal.SIGSTOP, signal.SIGKILL):
            with Server(link) as server:
                client = subprocess.Popen([SLUICE, "fabric", "bench", "-d", link, "--run-time", "60s", server.address],
                                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                time.sleep(0.5)
                server.process.send_signal(number)
                output = client.communicate(timeout=LIMIT / 2)
                expect(client.returncode == 1 and output[1], f"{link}, {number}: {client.returncode} {output}")


def test_client_dies():
    for link in LINKS:
        with Server(link) as server:
            client = subprocess.Popen([SLUICE, "fabric", "bench", "-d", link, "--run-time", "60s", server.address])
            time.sleep(0.3)
            client.kill()
            client.wait()
            run("ping", "-d", link, "--count", "5", server.address)


if __name__ == "__main__":
    os.environ["SLUICE_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="sluice-fabric-")
    try:
        for name, test in sorted(globals().items()):
            if name.startswith("test_"):
                began = time.monotonic()
                test()
                print(f"{name}: {time.monotonic() - began:.1f} s", flush=True)
    finally:
        shutil.rmtree(os.environ["SLUICE_RUNTIME_DIR"])
