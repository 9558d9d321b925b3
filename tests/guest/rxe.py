"""Soft-RoCE in a guest: a verbs device over a network interface that leads nowhere."""
ADDRESS = "10.9.0.1"  # 127.0.0.1 has no GID: rxe is not on the loopback interface
ABSENT = "10.9.0.77"  # a host that is not there: nobody answers when its address shall be resolved
# rdma_rxe asks for the CRC by name, so that no table of dependencies knows of it.
MODULES = ["dummy", "ib_uverbs", "rdma_rxe", "rdma_ucm", "crc32_generic"]


def add(image):
    return (image.program("ip", "rdma", "ibv_devinfo", "ibv_rc_pingpong", "fi_info")
            .library("/usr/lib/*/libfabric.so.1")  # our programs open it at run time
            .library("/usr/lib/*/libibverbs/librxe-rdmav*.so")
            .file("/etc/libibverbs.d/rxe.driver", "/etc/libibverbs.d/rxe.driver", mode=0o644)
            .modules(*MODULES))


def up_on(guest, interface, address, device="rxe0"):
    """On an interface that is there: a wire to another guest."""
    guest.load(*MODULES)
    # libfabric's verbs reads all of it, twice, in each process that starts: half a second of an emulated processor.
    guest.run("mount --bind /dev/null /proc/kallsyms", name="kallsyms")
    guest.run(f"ip addr add {address}/24 dev {interface} && ip link set {interface} up && "
              f"rdma link add {device} type rxe netdev {interface}", name="rxe")


def up(guest, device="rxe0", interface="d0", address=ADDRESS, mtu=1500):
    guest.load(*MODULES)
    guest.run(f"ip link add {interface} mtu {mtu} type dummy && ip link set {interface} arp on", name="dummy")
    up_on(guest, interface, address, device)
