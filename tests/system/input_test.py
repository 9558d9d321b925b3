#!/usr/bin/env python3
"""Goal: bad input gets an error that names what was wrong, the limit and what to do, and the right exit status (2 bad
usage, 1 failed); nothing crashes.

Method: each case is a command and words that its output must have."""
import os
import socket
import subprocess
import sys

from harness import MIB, SLOW, World, expect, main


def refused(command, status, *words):
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=30 * SLOW)
    expect(done.returncode == status, f"{command}: status {done.returncode}, not {status}:\n{done.stdout}")
    for word in words:
        expect(word.lower() in done.stdout.lower(), f"{command} does not say '{word}':\n{done.stdout}")


def test_usage(programs):
    target, gateway, initiator = programs
    for program in programs:
        refused([program, "--nonsense"], 2, "unknown option '--nonsense'", "--help")
        refused([program, "-d"], 2, "needs a value")
        refused([program, "-d", "nodev7"], 2, "nodev7", "lo", "shm")
        refused([program, "--cpu", "1000"], 2, "1000")
        refused([program, "--cpu", "x"], 2, "bad value 'x'")
        refused([program, "extra"], 2, "unexpected argument 'extra'")
    refused([target, "--storge", "mem:1G"], 2, "did you mean '--storage'?")
    refused([target, "--size", "12Q"], 2, "12Q", "64K")
    refused([target, "--memory", "1M"], 2, "16 MiB")
    refused([target, "--volume", "a"], 2, "--gateway")
    refused([target, "--listen", "192.0.2.1:7600"], 2, "--cluster-key-file")
    refused([gateway, "--volume", ":1G"], 2, "name")
    refused([gateway, "--volume", "a:zz"], 2, "a:zz")
    refused([gateway, "--volume", "a:0"], 2, "a:0")
    refused([gateway, "--command-channel-name", "a/b"], 1, "a/b", "a name has letters")
    refused([initiator, "--command-channel-name", "a/b"], 1, "a/b", "letters, digits")
    refused([gateway, "--stripe-size", "100K"], 2, "power of two")
    refused([gateway, "--io-timeout", "0s"], 2, "from 1 s")
    refused([gateway, "--follower-reads"], 2, "--follower-reads needs --cluster")
    for program, spec, words in ((target, "disk:error=EFOO", ("EFOO", "ENOSPC")), (target, "disk:delay=5ms,pp=1", ("'pp'", "offset")),
                                 (gateway, "link:delay=20min", ("20min", "10min")), (gateway, "disk:error=EIO", ("no disk",)),
                                 (target, "disk:error=EIO", ("mem:", "file:")), (gateway, "nonsense", ("link:",))):
        refused([program, "--inject", spec], 2, f"--inject '{spec}'", *words)
    refused([gateway, *["--inject", "link:drop"] * 9], 2, "--inject", "8 times")
    refused([initiator, "--io-size", "5000"], 2, "4096")
    refused([initiator, "--operation", "erase"], 2, "read, write")
    refused([initiator, "--transaction-count", "99999"], 2, "1024")
    refused([initiator, "--operation", "read", "--execution-strategy", "read_throughput_test"], 2, "not both")
    refused([initiator, "--execution-strategy", "read_only_data_validity_test"], 2, "--storage-plain-content")
    refused([initiator, "--execution-strategy", "read_write_data_validity_test", "--storage-plain-content", "/none"], 2,
            "/none", "no such file")


def test_storage(programs):
    with World(programs) as world:
        target = [programs[0], "-d", "tcp", "--listen", "127.0.0.1:0", "--storage"]
        path = world.file("disk", MIB)
        refused([*target, f"file:{world.directory}/none"], 1, "none", "no such file", "fallocate")
        refused([*target, world.directory], 1, "a directory")
        refused([*target, "/dev/null"], 1, "neither a file nor a block device")
        refused([*target, "mem:0"], 1, "mem:0")
        more = 2 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
        refused([*target, f"mem:{more}M"], 1, "this machine has")
        refused([*target, "mem:100000G"], 1, "memory")
        refused([*target, f"file:{path}", "--size", "2M"], 1, str(MIB), str(2 * MIB))
        os.chmod(path, 0o400)
        if os.geteuid() != 0:
            refused([*target, f"file:{path}"], 1, "permission denied")
        os.chmod(path, 0o600)
        world.target("tcp", f"file:{path}").address()
        refused([*target, f"file:{path}"], 1, "another process serves it")


def test_addresses(programs):
    with World(programs) as world:
        with socket.socket() as busy:
            busy.bind(("127.0.0.1", 0))
            busy.listen()
            address = f"127.0.0.1:{busy.getsockname()[1]}"
            refused([programs[0], "-d", "tcp", "--listen", address], 1, address, "in use", "another --listen")
        refused([programs[0], "-d", "tcp", "--listen", "127.0.0.1:99999"], 1, "99999", "65535")
        target = world.target("tcp", "mem:8M")
        address = target.address()
        world.gateway("tcp", [address])
        refused([programs[1], "-d", "tcp", "--storage-server", address], 1, "'sluice'", "in use",
                "--command-channel-name")
        shm = world.target("shm", "mem:8M")
        refused([programs[0], "-d", "shm", "--listen", shm.address()], 1, "in use")


def test_no_gateway(programs):
    with World(programs) as world:
        output = world.run("--operation", "read", status=1)
        expect("no gateway answers" in output and "sluice-gateway" in output, output)


def test_cluster(programs):
    target, gateway = programs[:2]
    with World(programs[:3]) as world:
        path = f"{world.directory}/cluster.json"
        replica = '{"node": 1, "replica": "0000000000000001"}'
        good = ('{"sluice_cluster": 1, "id": "00112233445566778899aabbccddeeff", "nodes": [{"id": 1, "address": "127.0.0.1:1"}], '
                f'"groups": [{{"id": 1, "size": "16M", "replicas": [{replica}]}}], "volumes": [%s]}}')
        with open(path, "w") as file:
            file.write(good % "")
        refused([target, "--node", 1], 2, "--node needs --cluster")
        refused([target, "--cluster", path], 2, "--node")
        refused([target, "--cluster", path, "--node", 2], 2, "no such node")
        refused([target, "--cluster", path, "--node", 1, "--storage", "mem:64M"], 2, "disk of the store")
        refused([target, "--cluster", path, "--node", 1, "--storage", "store:x", "--read-only"], 2, "not with --cluster")
        refused([gateway, "--cluster", path], 2, "no volumes")
        refused([gateway, "--cluster", path, "--volume", "a"], 2, "the --cluster file says it")
        refused([gateway, "--cluster", f"{path}.none"], 2, "sluice cluster create")
        with open(path, "w") as file:
            file.write((good % "").replace('"node": 1', '"node": 2'))
        refused([gateway, "--cluster", path], 2, "replica on node 2, which is not there")
        with open(path, "w") as file:
            file.write((good % "").replace("127.0.0.1", "192.0.2.1"))
        refused([target, "--cluster", path, "--node", 1, "--storage", "store:x"], 2, "--cluster-key-file")


def test_cluster_key(programs):
    with World(programs) as world:
        for name, byte in (("good", 1), ("bad", 2)):
            with open(f"{world.directory}/{name}", "wb") as file:
                file.write(bytes([byte]) * 32)
            os.chmod(f"{world.directory}/{name}", 0o600)
        with open(f"{world.directory}/short", "wb") as file:
            file.write(b"abc")
        refused([programs[0], "--cluster-key-file", f"{world.directory}/short"], 2, "64 hex digits")
        refused([programs[0], "--cluster-key-file", f"{world.directory}/none"], 2, "no such file")
        target = world.target("tcp", "mem:8M", "-k", f"{world.directory}/good")
        gateway = world.gateway("tcp", [target.address()], "-k", f"{world.directory}/bad")
        gateway.wait_for("key")
        output = world.run("--operation", "read", "--control-timeout", "1s", status=1)
        expect("timed out" in output.lower() or "storage servers" in output, output)
        gateway.stop()
        world.forget(gateway)
        world.gateway("tcp", [target.address()], "-k", f"{world.directory}/good")
        world.run("--operation", "read", "--run-limit-operation-count", 100)


def test_volumes(programs):
    with World(programs) as world:
        target = world.target("tcp", "mem:8M")
        gateway = world.gateway("tcp", [target.address()], "--volume", "a:4M", "--volume", "b:2M")
        output = world.run("--volume", "none", "--operation", "read", status=1)
        expect("'none'" in output and "none of that name" in output, output)
        output = world.run("--volume", "a", "--operation", "read", "--offset", "5M", status=1)
        expect("do not fit" in output, output)
        output = world.run("--volume", "b", "--operation", "read", "--length", "3M", status=1)
        expect("do not fit" in output, output)
        gateway.stop()
        world.forget(gateway)
        gateway = world.gateway("tcp", [target.address()], "--volume", "a:16M")
        gateway.wait_for("does not fit")
        world.run("--operation", "read", status=1)


def test_read_only(programs):
    with World(programs) as world:
        target = world.target("tcp", f"file:{world.file('disk', 8 * MIB)}", "--read-only")
        world.gateway("tcp", [target.address()])
        world.run("--operation", "read", "--run-limit-operation-count", 100)
        output = world.run("--operation", "write", status=1)
        expect("read-only" in output.lower(), output)


TESTS = [test_usage, test_storage, test_addresses, test_no_gateway, test_cluster, test_cluster_key, test_volumes, test_read_only]

if __name__ == "__main__":
    main(TESTS, sys.argv[1:])
