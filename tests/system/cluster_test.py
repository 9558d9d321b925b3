#!/usr/bin/env python3
"""Goal: three targets and a gateway keep a volume whatever happens to one of them: no wrong block, no acknowledged write
lost, no error at the client.

Method: real processes, over tcp or SLUICE_TEST_LINK. A journal client, which knows beyond anybody's death what was
acknowledged, and the initiator's validity test load a volume, while nodes are killed, stopped, started again, and replaced. The
client must go on while a majority is there, and every block is checked at the end.

    cluster_test.py TARGET GATEWAY INITIATOR SLUICE JOURNAL_CLIENT [NAME ...]"""
import os
import re
import signal
import sys
import time

from cluster_world import LINK, Cluster, errors_of
from harness import MIB, SLOW, Journal, World, expect, main, turn

HANG = 40 * SLOW  # nobody waits longer than an I/O may take, and some
LENGTH = 32 * MIB


def begin(programs, world, **more):
    cluster = Cluster(world, programs[3], **more).create()
    cluster.start_gateway()
    return cluster


def load(programs, world):
    return Journal(world, programs[4], 1, "load", 0, LENGTH).loading()


def verify(programs, world, length=LENGTH):
    Journal(world, programs[4], 1, "verify", 0, length).finish()


def validity(world):
    return world.initiator("--execution-strategy", "read_write_data_validity_test", "--offset", LENGTH, "--length", "24M",
                           "--io-size", "64K", "--transaction-count", 8, "--control-timeout", "60s")


def finish(world, initiator):
    output = world.finish(initiator, 0, timeout=180)
    expect("data is valid" in output, output)


def kill_leaders(cluster, journal):
    """kill -9 of the leader of one group, of the other; how long the client's next operations took."""
    gaps = []
    for group in (1, 2):
        victim = cluster.leader(group)
        cluster.kill(victim)
        gaps.append(journal.progress(40, HANG))
        cluster.start(victim)
        cluster.ready(victim)
        cluster.wait_equal_enough()
    return gaps


def refused(world, target, *words):
    """A target that was started ends by itself, and says why."""
    world.forget(target)
    status = target.process.wait(60 * SLOW)
    expect(status == 1 and all(word in target.text() for word in words), f"{status}, not said: {words}:\n{target.text()}")


def test_create(programs):
    """Nothing is made without being asked; being asked twice does no harm."""
    with World(programs[:3]) as world:
        cluster = Cluster(world, programs[3])
        text = cluster.group("status", status=1)
        expect("no replica of it" in text, text)
        cluster.create()
        text = cluster.group("create")
        expect(text.count("has it already") == 6, text)
        text = cluster.group("status")
        expect(text.count("leader") == 2 and text.count("follower") == 4, text)


def test_no_group(programs):
    """A gateway of a cluster whose groups were never made says so; made, they are used at once."""
    with World(programs[:3]) as world:
        cluster = Cluster(world, programs[3])
        cluster.start_gateway()
        world.run("--operation", "read", "--run-limit-operation-count", 1, status=1)
        cluster.gateway.wait_for("cannot be attached")
        cluster.create()
        finish(world, validity(world))


def test_kill(programs):
    """kill -9 of the leader of one group, of the other, and of a follower of both."""
    with World(programs[:3]) as world:
        cluster = begin(programs, world)
        journal = load(programs, world)
        gaps = []
        for _ in range(2):
            initiator = validity(world)
            gaps += kill_leaders(cluster, journal)
            finish(world, initiator)
        journal.finish()
        verify(programs, world)
        print(f"        40 operations after a kill took {max(gaps):.2f} s at most")


def test_follower_reads(programs):
    """All replicas serve reads, none older than what was acknowledged, also while leaders die."""
    with World(programs[:3]) as world:
        cluster = Cluster(world, programs[3]).create()
        cluster.start_gateway("--follower-reads")
        journal = load(programs, world)
        initiator = validity(world)
        kill_leaders(cluster, journal)
        finish(world, initiator)
        journal.finish()
        verify(programs, world)
        served = []
        for node, target in cluster.targets.items():
            target.process.send_signal(signal.SIGUSR1)
            served.append(int(target.wait_for(r"(\d+) reads served without leading").group(1)))
        expect(sum(served) > 0, f"reads that each node served without leading: {served}")
        print(f"        reads that each node served without leading: {served}")


def test_stop(programs):
    """A leader that is stopped, not dead, is replaced; when it goes on it follows."""
    with World(programs[:3]) as world:
        cluster = begin(programs, world)
        journal = load(programs, world)
        gaps = []
        for group in (1, 2, 1):
            victim = cluster.leader(group)
            cluster.pause(victim)
            try:
                gaps.append(journal.progress(40, HANG))
            finally:
                cluster.resume(victim)
            cluster.wait_equal_enough()
        journal.finish()
        verify(programs, world)
        print(f"        40 operations after a stop took {max(gaps):.2f} s at most")


def test_majority(programs):
    """Two of three dead: I/O waits, and goes on with the second one."""
    with World(programs[:3]) as world:
        cluster = begin(programs, world)
        journal = load(programs, world)
        cluster.kill(1)
        journal.progress(20, HANG)
        cluster.kill(2)
        time.sleep(1)
        before = journal.head()[1]
        time.sleep(1)
        expect(journal.head()[1] <= before, "writes go on without a majority")
        cluster.start(2)
        journal.progress(40, HANG)
        cluster.start(1)
        cluster.wait_equal_enough()
        journal.finish()
        verify(programs, world)


def test_all_killed(programs):
    """Power loss of everything: what was acknowledged is there."""
    with World(programs[:3]) as world:
        cluster = begin(programs, world)
        for _ in range(2):
            journal = load(programs, world)
            journal.progress(200)
            for node in cluster.nodes:
                cluster.kill(node)
            cluster.gateway.kill()
            world.forget(cluster.gateway)
            journal.process.wait(HANG)
            journal.process.communicate()
            for node in cluster.nodes:
                cluster.start(node)
            cluster.start_gateway()
            verify(programs, world)
        finish(world, validity(world))


def test_fenced(programs):
    """The gateway that opened a volume last has it."""
    with World(programs[:3]) as world:
        cluster = begin(programs, world, volumes=("vm=64M", "pool=64M,shared"))
        second = world.serve("gateway", [world.gateway_program, "-d", LINK, "--cluster", cluster.file, "-c", "second"])
        second.wait_for("ready: command channel")
        endless = ("--operation", "write", "--run-time", "60s", "--length", "16M")
        first = world.initiator(*endless, "--volume", "vm")
        shared = [world.initiator("--operation", "write", "--run-time", "4s", "--length", "16M", "--volume", "pool", *more)
                  for more in ((), ("-c", "second"))]
        time.sleep(1)
        world.run("--operation", "write", "--run-limit-operation-count", 100, "-c", "second", "--volume", "vm")
        output = world.finish(first, 1, timeout=60)
        expect("attached by" in output or "FENCED" in output, output)
        cluster.gateway.wait_for("was attached by another gateway")
        world.run("--operation", "write", "--run-limit-operation-count", 100, "--volume", "vm")
        for each in shared:
            world.finish(each, 0)
        expect(not errors_of(second), second.text())


def test_members(programs):
    """A group moves from one node to another under load; what makes no sense is refused and changes nothing."""
    with World(programs[:3]) as world:
        cluster = begin(programs, world, groups=1, spare=1)
        journal = load(programs, world)

        def group(what, node, status=0, *more):
            return cluster.group(what, "--group", 1, "--node", node, *more, status=status)
        expect("no member of the group" in group("promote", 4, 1), "promoting nobody")
        group("add-learner", 4)
        expect("EEXIST" in group("add-learner", 4, 1), "a second replica on one disk")
        deadline = time.monotonic() + HANG
        while "EAGAIN" in (said := group("promote", 4, None)): # it has to catch up first
            expect(time.monotonic() < deadline, f"a learner under load never catches up: {said}")
            time.sleep(0.2)
        group("demote", 1)
        # Node 4 may have fallen behind since, and be copying: then it does not know.
        cluster.wait_for("node 1 is a learner", lambda now: len(now[1][4].get("members", [])) == 4 and any(
            member["node"] == 1 and member["kind"] == "learner" for member in now[1][cluster.leader()]["members"]))
        group("remove", 1)
        group("transfer-leader", 4)
        expect(cluster.leader() == 4, "the leadership was not transferred")
        cluster.kill(1)
        journal.progress(40, HANG)
        # The file names three first members; now two of them and the new one are there: one of them may go.
        cluster.kill(2)
        journal.progress(40, HANG)
        expect("no majority" in group("remove", 3, 1), "a group was left without a majority")
        for node in (1, 2):
            cluster.start(node)
            cluster.ready(node)
        journal.finish()
        verify(programs, world)


def test_learners(programs):
    """A lost disk, as docs/operations.md says; add-learner where a member is: nothing is made (once it left a replica that
    nobody could add, take out or get rid of); one that was cut short, and one that was taken out, are added again."""
    with World(programs[:3]) as world:
        cluster = begin(programs, world, groups=1)
        journal = load(programs, world)

        def group(what, node, *more, status=0):
            return cluster.group(what, "--group", 1, "--node", node, *more, status=status)

        def voters():
            members = cluster.status()[1][cluster.leader()]["members"]
            return {member["node"]: member["replica"] for member in members if member["kind"] == "voter"}

        lost = voters()[3]
        cluster.kill(3)
        cluster.format(3)
        cluster.start(3)
        cluster.ready(3)
        # Under the id of the lost one it would undo what that had acknowledged.
        text = cluster.group("create", status=1)
        expect("the group has run" in text and text.count("has it already") == 2, text)
        text = group("add-learner", 3, status=1)
        expect("EEXIST" in text and f"--replica {lost}" in text, text)
        expect("error" in cluster.status()[1][3], "add-learner has made a replica of a member's node")
        group("remove", 3, "--replica", lost)
        text = group("remove", 3, status=1)
        expect("no member of the group" in text and voters()[1] in text, text)
        group("add-learner", 3)
        group("promote", 3)
        expect("voter already" in group("promote", 3), "promoting a voter")
        given = voters()[3]
        expect(given != lost, "a new disk has the lost replica's id")
        # Taken out with its disk whole: it comes back as what it was.
        group("remove", 3)
        expect(cluster.status()[1][3]["role"] == "no member", "who was taken out looks like a member")
        journal.progress(40, HANG)
        text = group("promote", 3, status=1) # what the removed one believes does not count
        expect("no member of the group" in text, text)
        expect(given in group("add-learner", 3), "another replica than the one that is there")
        text = group("transfer-leader", 3, status=1)
        expect("learner" in text, text)
        expect("learner already" in group("demote", 3), "demoting a learner")
        group("promote", 3)
        group("transfer-leader", 3)
        expect(cluster.leader() == 3 and voters()[3] == given, voters())
        journal.finish()
        cluster.wait_equal()
        verify(programs, world)


def test_other_cluster(programs):
    """Nodes, and a file of another cluster with the same addresses and numbers: gateways and tools once went by the addresses
    alone, and wrote volumes where the file laid them."""
    with World(programs[:3]) as world:
        cluster = begin(programs, world, groups=1)
        finish(world, validity(world))
        with open(cluster.file) as file:
            text = file.read()
        other = f"{world.directory}/other.json"
        with open(other, "w") as file:
            file.write(re.sub(r'"id": "[0-9a-f]{32}"', '"id": "00112233445566778899aabbccddeeff"', text))
        for command in ("status", "create"):
            said = cluster.run("group", command, "--cluster", other, "-d", LINK, status=1)
            expect(said.count("another cluster") == 3, said)
        said = cluster.run("group", "transfer-leader", "--cluster", other, "-d", LINK, "--group", 1, "--node", 1, status=1)
        expect("another cluster" in said, said)
        gateway = world.serve("gateway", [world.gateway_program, "-d", LINK, "--cluster", other, "-c", "other"])
        gateway.wait_for("node of another cluster")
        world.run("--operation", "write", "--run-limit-operation-count", 1, "-c", "other", "--control-timeout", "1s", status=1)
        plain = world.gateway(LINK, [cluster.addresses[1]], "-c", "plain")
        plain.wait_for("--cluster")
        world.run("--operation", "write", "--run-limit-operation-count", 1, "-c", "plain", "--control-timeout", "1s", status=1)
        cluster.stop(3)

        path = world.file("others", 64 * MIB)
        cluster.run("disk", "format", "--segment", "4M", "--cluster", other, path)
        refused(world, cluster.serve(3, [path]), "another cluster")
        # A small disk's log takes no write of 1 MiB: the group stopped at the first one, with EINVAL at the client.
        text = cluster.run("disk", "format", "--force", "--cluster", cluster.file, path, status=1)
        expect("--segment 4M" in text, text)
        refused(world, cluster.serve(3, [path]), "--segment 4M")
        target = world.serve("stranger", [world.target_program, "-d", LINK, "--cluster", other, "--node", "3", "--storage",
                                          f"store:{cluster.disk(3)}"])
        target.wait_for("another cluster")
        target.stop()
        world.forget(target)
        cluster.start(3)
        cluster.ready(3)


def test_disks(programs):
    """Two disks a node, each with a reactor of its own: both have groups; a list of disks that does not fit is refused."""
    with World(programs[:3]) as world:
        cluster = begin(programs, world, reactors=2, disks=2, groups=4)
        first, second = cluster.disk(1), cluster.disk(1, 1)
        journal = load(programs, world)
        cluster.kill(1)
        journal.progress(40, HANG)
        for path in (first, second):
            text = cluster.run("disk", "inspect", path)
            expect(len(set(re.findall(r"group (\d+): log behind", text))) == 2, text)

        def disks_refused(disks, *words):
            refused(world, cluster.serve(1, disks), *words)

        disks_refused([second, first], "the order of --storage", first)
        disks_refused([first], "number of reactors")
        disks_refused([first, first], "are one disk")
        disks_refused([first, f"{world.directory}/none"], f"{world.directory}/none", "No such file")
        for superblock in (0, 65536):
            turn(second, superblock + 100)
        disks_refused([first, second], f"storage '{second}'", "checksum is wrong")
        for superblock in (0, 65536):
            turn(second, superblock + 100)
        cluster.start(1)
        cluster.ready(1)
        journal.progress(40, HANG)
        journal.finish()
        cluster.wait_equal()
        verify(programs, world)


def test_alone(programs):
    """A disk with replicas is served, grown and dumped as nothing else; one that was served alone becomes no node's. A
    target without --cluster once wrote its data into the log of group 1, and `sluice disk grow` applied what that log
    ended with, committed or not."""
    with World(programs[:3]) as world:
        cluster = begin(programs, world, groups=1)
        finish(world, validity(world))
        cluster.wait_equal()
        cluster.stop(1)
        path = cluster.disk(1)

        refused(world, world.target("tcp", f"store:{path}"), path, "replica of group 1", "--cluster")
        expect("through a gateway" in cluster.run("disk", "dump", path, status=1), "dump")
        with open(path, "ab") as file:
            file.truncate(os.path.getsize(path) + 64 * MIB)
        before = re.search(r"group 1: .*", cluster.run("disk", "inspect", path)).group()
        cluster.run("disk", "grow", path)
        after = re.search(r"group 1: .*", cluster.run("disk", "inspect", path)).group()
        expect(before == after, f"grown, and the group is another: {before}; {after}")
        cluster.start(1)
        cluster.ready(1)
        cluster.wait_equal()

        alone = world.file("alone", 64 * MIB)
        cluster.run("disk", "format", "--segment", "4M", alone)
        target = world.target("tcp", f"store:{alone}")
        gateway = world.gateway("tcp", [target.address()], "-c", "alone")
        world.run("--operation", "write", "--run-limit-operation-count", 10, "-c", "alone")
        for server in (gateway, target):
            server.stop()
            world.forget(server)
        cluster.stop(2)
        refused(world, cluster.serve(2, [alone]), alone, "without --cluster")
        cluster.start(2)
        cluster.ready(2)


def small_log(programs, groups, writes, log_bytes=24 * MIB):
    with World(programs[:3]) as world:
        cluster = begin(programs, world, volumes=("vm=256M",), disk_bytes=400 * MIB, log_bytes=log_bytes, groups=groups)
        cluster.lead(1)
        result = world.run("--operation", "write", "--io-size", "1M", "--transaction-count", writes, "--run-limit-operation-count",
                           600, "--control-timeout", "60s", "--json", timeout=HANG)
        expect(result["errors"] == 0 and result["all"]["writes"] == 600, result)


def test_small_log(programs):
    """Far more is written at once than the logs hold: what waits for its commit must not fill them, or nobody could vote."""
    small_log(programs, 2, 32)


def test_small_log_many_groups(programs):
    """Nor if one write of each group would."""
    small_log(programs, 16, 64)


def test_small_log_of_followers(programs):
    """Nor those of nodes that have less than who leads."""
    small_log(programs, 2, 64, {1: 128 * MIB, 2: 24 * MIB, 3: 24 * MIB})


def test_life(programs):
    """A small cluster, from its making to its end: data of each size, none of it copied; the leader killed in the midst of
    writes, a follower that catches up from the log, one whose disk is lost; then each replica is read, and each disk checked.
    Where it can, it leaves the programs in peace: an emulated machine has no more time than they need."""
    half = 8 * MIB
    with World(programs[:3]) as world:
        cluster = begin(programs, world, groups=1, volumes=("vm=16M",), disk_bytes=96 * MIB, log_bytes=32 * MIB,
                        absent=os.environ.get("SLUICE_TEST_ABSENT"))

        def write(size, depth, length):
            return world.run("--execution-strategy", "read_write_data_validity_test", "--io-size", size, "--transaction-count",
                             depth, "--offset", half, "--length", length, "--json")
        # In the capsule; a batch of such; by READ.
        for size, depth, length in (("4K", 1, "64K"), ("16K", 16, "1M"), ("64K", 8, "2M"), ("1M", 4, "6M")):
            result = write(size, depth, length)
            copied = {who: {reason: count for reason, count in result["copied_bytes"][who].items() if count}
                      for who in ("gateway", "targets")}
            expect(not any(copied.values()), f"{size}: copied: {copied}")
        victim = cluster.leader()
        journal = Journal(world, programs[4], 1, "load", 0, half, depth=4).loading()
        cluster.kill(victim)
        gap = journal.progress(40, HANG)
        journal.finish()
        cluster.start(victim)
        cluster.wait_equal()
        leader = cluster.leader()
        follower, other = (node for node in cluster.nodes if node != leader)
        cluster.stop(follower)
        write("64K", 8, "4M")
        cluster.start(follower)
        cluster.wait_equal()
        cluster.lose_disk(other, lambda: write("64K", 8, "4M"))
        cluster.wait_equal()
        for node in cluster.nodes:
            cluster.lead(node)
            verify(programs, world, half)
        for node in cluster.nodes:
            cluster.stop(node)
            text = cluster.run("disk", "check", cluster.disk(node))
        print(f"        40 operations after a kill took {gap:.2f} s; {text.splitlines()[-1]}")


TESTS = [test_life, test_create, test_no_group, test_kill, test_follower_reads, test_stop, test_majority, test_all_killed, test_fenced,
         test_members, test_learners, test_other_cluster, test_disks, test_alone, test_small_log,
         test_small_log_many_groups, test_small_log_of_followers]

if __name__ == "__main__":
    main(TESTS, sys.argv[1:], 5)
