#!/usr/bin/env python3
"""Goal: on Debian's own kernel, verbs work over Soft-RoCE, and our programs over tcp, on io_uring of that kernel.

Method: one guest. The verbs tools of the distribution first, so that a fault below us is not taken for ours; then our tests
of io_uring and of the tcp link; then the three programs, on memory and on a block device with O_DIRECT."""
import os
import sys
import tempfile

import rxe
from guest import Image, expect, main
from trio import Trio, add_programs

DISK_MIB = 16


def check_rxe(guest):
    rxe.up(guest)
    said = guest.run("exec ibv_devinfo -d rxe0")
    expect("PORT_ACTIVE" in said, said)


def check_verbs_pingpong(guest):
    """GID 1 is the one of the IPv4 address."""
    server = guest.start("pingpong", "exec ibv_rc_pingpong -d rxe0 -g 1 -n 200")
    guest.run(f"until netstat -ltn | grep -q :18515; do sleep 0.1; done; exec ibv_rc_pingpong -d rxe0 -g 1 -n 200 {rxe.ADDRESS}")
    expect(server.wait() == 0, server.text())


def check_libfabric(guest):
    said = guest.run(f"exec fi_info -p verbs -t FI_EP_MSG -s {rxe.ADDRESS}")
    expect("domain: rxe0" in said, said)


def check_trio_tcp(guest):
    with Trio(guest, "tcp", "127.0.0.1:0") as trio:
        trio.gateway([trio.target("mem:16M")])
        trio.validity("4K", 32, "--length", "1M")
        trio.validity("64K", 8, "--length", "2M", "--pattern", "rand")
        trio.validity("1M", 2, "--length", "4M")


def check_trio_block_device(guest):
    with Trio(guest, "tcp", "127.0.0.1:0") as trio:
        trio.gateway([trio.target("/dev/vda")])
        trio.validity("4K", 32, "--length", "1M")
        trio.validity("1M", 2, "--length", "4M")


CHECKS = [check_rxe, check_verbs_pingpong, check_libfabric,
          ("io_uring_descriptors", "exec io_descriptor_test"), ("io_uring_streams", "cd /tmp; exec io_stream_test"),
          ("conformance_tcp", "exec conformance_test tcp 'tcp/one_reactor/*'"), check_trio_tcp, check_trio_block_device]

if __name__ == "__main__":
    with tempfile.TemporaryFile(dir=".") as disk:
        os.truncate(disk.fileno(), DISK_MIB << 20)
        main(lambda: rxe.add(add_programs(Image(), sys.argv[1:7])), CHECKS, arguments=sys.argv[7:],
             drives=[f"/dev/fd/{disk.fileno()}"], pass_fds=[disk.fileno()])
