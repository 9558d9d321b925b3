"""Guests: Debian's kernel in QEMU with a small RAM disk, driven from here. Files in; commands, exit codes and logs out.

    with Guest(Image().program("ip").modules("dummy")) as guest:
        guest.load("dummy")
        guest.run("ip link add d0 type dummy", limit_s=10)
        server = guest.start("server", "exec sluice-target -d tcp")
        server.wait_for("ready")

A command is a shell script. Its output lies in a folder that host and guest share (`guest.share` here, /host there), so it
is read while it runs. Each has a time limit; a guest that does not answer is ended and the test fails with its console.
Without /dev/kvm QEMU emulates the processor (TCG): a boot takes seconds, and programs run some ten times slower."""
import contextlib
import ctypes
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from image import Image
from kernel import Missing, find_program

# Limits are there for what hangs: a machine that others use has more time.
SLOW = float(os.environ.get("SLUICE_TEST_SLOW", max(3, os.getloadavg()[0] / os.cpu_count())))
BOOT_LIMIT_S = 120
# A guest that is alive answers an order within this, also on a busy machine.
ANSWER_LIMIT_S = 30
LOG_LINES_SHOWN = 60
COMMAND_LINE = "console=ttyS0 quiet loglevel=5 panic=-1 mitigations=off no_timer_check random.trust_cpu=on rdinit=/init"
# So that clock_gettime() is what it is elsewhere: a read of the counter, without a system call.
STEADY = ["tsc=reliable", "clocksource=tsc"]
# What the kernel says when it, and not a test, is broken.
KERNEL_TROUBLE = re.compile(r"^.*(?:BUG:|\bOops|general protection|kernel panic|Call Trace|blocked for more than|"
                            r"rcu_sched self-detected|soft lockup).*$", re.MULTILINE | re.IGNORECASE)

EXT4 = ["crc32c_generic", "ext4"]  # which asks for its CRC by name

__all__ = ["EXT4", "Failure", "Guest", "Image", "Missing", "SLOW", "check", "disk", "expect", "finish", "main", "run_checks", "together", "wire"]


class Failure(Exception):
    pass


def expect(condition, text):
    if not condition:
        raise Failure(text)


def tail(text, lines=LOG_LINES_SHOWN):
    kept = text.splitlines()[-lines:]
    return "\n".join(kept)


def die_with_parent():
    """In QEMU's process, before exec: no emulator outlives a test that was killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Process:
    """A command in the guest."""

    def __init__(self, guest, name, script):
        self.guest = guest
        self.name = name
        self.status = None
        guest.count += 1
        self.id = f"{guest.count:03d}-{re.sub('[^A-Za-z0-9_.-]', '-', name)[:40]}"
        self.output_path = f"{guest.share}/{self.id}.out"
        with open(f"{guest.share}/{self.id}.sh", "w") as file:
            file.write(script + "\n")
        open(self.output_path, "w").close()
        guest.processes[self.id] = self
        guest.order(f"start {self.id}")

    def text(self):
        with open(self.output_path, errors="replace") as file:
            return file.read()

    def show(self):
        print(f"---- {self.id} ({'running' if self.status is None else self.status})\n{tail(self.text())}", flush=True)

    def running(self):
        self.guest.listen(0)
        return self.status is None

    def wait_for(self, pattern, limit_s=30):
        """The first match of `pattern` in its output."""
        deadline = time.monotonic() + limit_s * SLOW
        while True:
            running = self.running()
            found = re.search(pattern, self.text())
            if found:
                return found
            expect(running, f"{self.name} ended with {self.status} before '{pattern}':\n{tail(self.text())}")
            expect(time.monotonic() < deadline, f"{self.name} did not say '{pattern}':\n{tail(self.text())}")
            self.guest.listen(0.05)

    def signal(self, name):
        """To it and what it started, as kill -s NAME; nothing if it has ended."""
        if self.running():
            self.guest.order(f"signal {self.id} {name}")

    def wait(self, limit_s=60):
        """Its exit status; over the limit it is killed and the test fails. A signal's is 128 and its number."""
        deadline = time.monotonic() + limit_s * SLOW
        while self.running():
            if time.monotonic() >= deadline:
                self.kill()
                raise Failure(f"{self.name} was not done within {limit_s * SLOW:.0f} s:\n{tail(self.text())}")
            self.guest.listen(min(1, max(0, deadline - time.monotonic())))
        return self.status

    def kill(self):
        """SIGKILL to all of its session, and awaits the end."""
        self.signal("KILL")
        deadline = time.monotonic() + ANSWER_LIMIT_S * SLOW
        while self.running():
            if time.monotonic() >= deadline:
                self.guest.dead(f"{self.name} cannot be killed")
            self.guest.listen(1)

    def stop(self, status=0, limit_s=30):
        """SIGTERM; it must end with `status`."""
        self.signal("TERM")
        self.wait(limit_s)
        expect(self.status == status, f"{self.name} ended with {self.status}, not {status}:\n{tail(self.text())}")


class Guest:
    """with Guest(image) as guest: …  `qemu`: further arguments; `pass_fds`: descriptors that they name; `drives`: files that
    appear as /dev/vda, /dev/vdb, …; `network`: virtio-net to QEMU's user network, where the host is 10.0.2.2;
    `wires`: ends of wire(), each a network card (eth0, eth1, … behind that of `network`);
    `shared_memory`: the guest's memory is a memfd that vhost-user devices can map; `quiet`: no logs after a failure;
    `kernel`: more words of the kernel's command line; `steady`: the clock counts the instructions of the guest's one
    processor, a nanosecond each, so that a busy host makes it late for nothing. Idle, it waits as others do."""

    def __init__(self, image, memory_mib=1024, cpus=2, drives=(), network=False, wires=(), shared_memory=False, qemu=(), pass_fds=(),
                 quiet=False, kernel=(), steady=False):
        self.qemu_program = find_program("qemu-system-x86_64")
        self.image = image
        if drives:
            image.modules("virtio_blk")
        if network or wires:
            image.modules("virtio_net")
        self.memory_mib, self.cpus, self.network, self.wires = memory_mib, 1 if steady else cpus, network, list(wires)
        self.drives, self.shared_memory, self.more, self.pass_fds = drives, shared_memory, list(qemu), list(pass_fds)
        self.processes, self.count, self.loaded = {}, 0, {name for name, _ in image.base}
        self.buffer, self.ready, self.host_processes = b"", None, []
        self.ended, self.quiet = False, quiet
        if steady:
            self.more += ["-icount", "shift=0"]
        self.command_line = " ".join([COMMAND_LINE, *(STEADY if steady else []), *kernel])

    def command(self, agent):
        """TCG, unless GUEST_ACCEL says otherwise; `kvm:tcg` tries one after the other."""
        machine = f"q35,accel={os.environ.get('GUEST_ACCEL', 'tcg')}"
        command = [self.qemu_program, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                   "-cpu", "max", "-smp", str(self.cpus), "-m", str(self.memory_mib)]
        if self.shared_memory:
            command += ["-object", f"memory-backend-memfd,id=ram,size={self.memory_mib}M,share=on"]
            machine += ",memory-backend=ram"
        command += ["-M", machine, "-kernel", self.image.kernel.image, "-initrd", self.image.build(),
                    "-append", self.command_line, "-serial", f"file:{self.directory}/console",
                    "-chardev", f"socket,id=agent,fd={agent.fileno()}", "-serial", "chardev:agent",
                    "-virtfs", f"local,path={self.share},mount_tag=host,security_model=none"]
        for number, path in enumerate(self.drives):
            command += ["-drive", f"file={path},format=raw,if=none,cache=writeback,id=drive{number}",
                        "-device", f"virtio-blk-pci,drive=drive{number}"]
        command += ["-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,romfile="] if self.network else []
        for number, (end, side) in enumerate(self.wires):
            command += ["-netdev", f"socket,id=wire{number},fd={end.fileno()}", "-device",
                        f"virtio-net-pci,netdev=wire{number},romfile=,mac=52:54:00:00:{number:02x}:{side:02x}"]
        return command + self.more

    def __enter__(self):
        self.begin()
        try:
            self.await_boot()
        except BaseException:
            self.end(failed=True)
            raise
        return self

    def begin(self):
        """Starts QEMU; await_boot() must follow."""
        self.directory = tempfile.mkdtemp(prefix="guest-", dir=".")
        self.directory = os.path.abspath(self.directory)
        self.share = f"{self.directory}/host"
        os.mkdir(self.share)
        self.began = time.monotonic()
        self.agent, theirs = socket.socketpair()
        self.agent.setblocking(False)
        with theirs, open(f"{self.directory}/qemu.log", "wb") as log:
            self.qemu = subprocess.Popen(self.command(theirs), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                         preexec_fn=die_with_parent,
                                         pass_fds=[theirs.fileno(), *self.pass_fds, *(end.fileno() for end, _ in self.wires)])

    def await_boot(self):
        deadline = time.monotonic() + BOOT_LIMIT_S * SLOW
        while self.ready is None:
            if time.monotonic() > deadline:
                self.dead(f"the guest did not boot within {BOOT_LIMIT_S * SLOW:.0f} s")
            self.listen(1)
        self.boot_s = time.monotonic() - self.began
        if self.network or self.wires:
            self.load("virtio_net")
        if self.network:
            self.run("ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up")
        if self.drives:
            self.load("virtio_blk")

    def read_log(self, name):
        try:
            with open(f"{self.directory}/{name}", errors="replace") as file:
                return file.read()
        except OSError:
            return ""

    def dead(self, reason):
        """The guest cannot be talked to any more: no further check makes sense."""
        self.kill_emulator()
        raise Failure(f"{reason}\n---- QEMU\n{tail(self.read_log('qemu.log'))}\n---- console\n{tail(self.read_log('console'))}")

    def kill_emulator(self):
        self.ended = True
        if self.qemu.poll() is None:
            self.qemu.kill()
            self.qemu.wait()

    def order(self, line):
        if self.ended:
            raise Failure("the guest has ended")
        try:
            self.agent.sendall(line.encode() + b"\n")
        except OSError as error:
            self.dead(f"the guest takes no orders: {error}")

    def listen(self, seconds):
        """Takes what the guest says, for at most so long; returns at the first line."""
        if self.ended:
            raise Failure("the guest has ended")
        readable, _, _ = select.select([self.agent], [], [], seconds)
        if not readable:
            if self.qemu.poll() is not None:
                self.dead(f"QEMU ended with {self.qemu.returncode}")
            return
        try:
            data = self.agent.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self.dead(f"the guest is gone: {error}")
        if not data:
            self.dead("the guest has ended by itself")
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            words = line.decode(errors="replace").split()
            if words[:1] == ["ready"]:
                self.ready = words[1]
            elif words[:1] == ["done"] and len(words) == 3 and words[1] in self.processes:
                self.processes[words[1]].status = int(words[2])

    def start(self, name, script):
        """A command that runs on. Begin it with `exec` if signals shall reach the program and no shell before it."""
        return Process(self, name, script)

    def run(self, script, limit_s=60, status=0, name=None):
        """Runs a command to its end and answers its output. `status` None: any."""
        process = Process(self, name or script.split()[0].rsplit("/", 1)[-1], script)
        process.wait(limit_s)
        expect(status is None or process.status == status,
               f"'{script}' ended with {process.status}, not {status}:\n{tail(process.text())}")
        return process.text()

    def load(self, *names):
        """Kernel modules, dependencies first. They must be in the image."""
        order = [(name, path) for name, path in self.image.kernel.order(names) if name not in self.loaded]
        if order:
            self.run("\n".join(f"insmod /modules/{os.path.basename(path)} || exit 1" for _, path in order), name="load")
            self.loaded |= {name for name, _ in order}

    def host(self, name, command, pass_fds=()):
        """A process of the host that the guest needs; ended with the guest. Its output: DIRECTORY/NAME.log."""
        with open(f"{self.directory}/{name}.log", "wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=pass_fds,
                                       preexec_fn=die_with_parent)
        self.host_processes.append(process)
        return process

    def kernel_log(self):
        return self.run("dmesg", name="dmesg")

    def __exit__(self, kind, value, trace):
        trouble = None
        try:
            if kind is None and not self.ended:
                trouble = KERNEL_TROUBLE.search(self.kernel_log())
                self.power_off()
        finally:
            self.end(failed=kind is not None or trouble is not None)
        expect(trouble is None, f"the guest's kernel is in trouble: {trouble and trouble.group(0)}")

    def power_off(self):
        self.order("off")
        try:
            self.qemu.wait(ANSWER_LIMIT_S * SLOW)
        except subprocess.TimeoutExpired:
            self.dead("the guest does not power off")
        self.ended = True
        expect(self.qemu.returncode == 0, f"QEMU ended with {self.qemu.returncode}:\n{tail(self.read_log('qemu.log'))}")

    def end(self, failed):
        """Whatever happened: nothing runs on. After a failure the logs are shown; GUEST_KEEP=1 keeps the folder."""
        if hasattr(self, "qemu"):
            self.kill_emulator()
            self.agent.close()
        for process in self.host_processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        self.total_s = time.monotonic() - self.began
        if failed and not self.quiet:
            for process in self.processes.values():
                if process.status != 0:
                    process.show()
            print(f"---- console\n{tail(self.read_log('console'))}")
        if os.environ.get("GUEST_KEEP", "") in ("", "0"):
            shutil.rmtree(self.directory, ignore_errors=True)
        else:
            print(f"kept: {self.directory}")


@contextlib.contextmanager
def disk(size_mib=16, file_system=None):
    """A sparse file for `drives`, gone at the end; with a file system if one is named (ext4)."""
    with tempfile.NamedTemporaryFile(dir=".", prefix="guest-disk-") as file:
        os.truncate(file.fileno(), size_mib << 20)
        if file_system is not None:
            subprocess.run([find_program("mke2fs"), "-q", "-t", file_system, file.name], check=True)
        yield file.name


def wire():
    """The two ends of a cable between guests; what one sends the other gets, as long as both run."""
    return [(end, side) for side, end in enumerate(socket.socketpair())]


@contextlib.contextmanager
def together(*guests):
    """Several guests, booted at the same time."""
    with contextlib.ExitStack() as stack:
        for guest in guests:
            guest.begin()
            stack.push(guest)
        for guest in guests:
            guest.await_boot()
        yield guests


def check(subject, name, test, guests):
    """One check, one line; a command (a string) or a function of the subject (a guest, or several), which may answer a word
    for the line. What the check's processes said is shown if it fails."""
    began = time.monotonic()
    before = [set(guest.processes) for guest in guests]
    try:
        if isinstance(test, str):
            said = None
            subject.run(test, name=name)
        else:
            said = test(subject)
    except Failure as failure:
        print(f"FAILED  {name}: {failure}", flush=True)
        for guest, known in zip(guests, before):
            for process in guest.processes.values():
                if process.id not in known and process.text():
                    process.show()
        return False
    print(f"ok      {name}  {time.monotonic() - began:.1f} s{'  ' + said if said else ''}", flush=True)
    return True


def run_checks(subject, checks, guests, word):
    """The checks whose names contain the word, one line each; how many failed. None goes on when a guest has ended."""
    failed = 0
    for each in checks:
        name, test = each if isinstance(each, tuple) else (each.__name__.removeprefix("check_"), each)
        if word in name and not any(guest.ended for guest in guests):
            failed += not check(subject, name, test, guests)
    return failed


def finish(body):
    """Runs the body of a test program, which answers how many checks failed, and exits as Meson wants it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        failed = body()
    except Missing as reason:
        print(f"SKIPPED: {reason}", flush=True)
        sys.exit(77)
    except Failure as failure:
        print(f"FAILED  {failure}", flush=True)
        failed = 1
    sys.exit(1 if failed else 0)


def main(build_image, checks, arguments=(), **options):
    """A test program of one guest. `build_image` may raise Missing: then all is skipped, with the reason (exit 77).
    `checks`: functions of the guest, or (name, command); a word behind the arguments chooses among them."""
    def body():
        with Guest(build_image(), **options) as guest:
            print(f"ok      boot  {guest.boot_s:.1f} s  Linux {guest.ready}", flush=True)
            failed = run_checks(guest, checks, [guest], arguments[0] if arguments else "")
        print(f"{'FAILED' if failed else 'ok':<7} all  {guest.total_s:.1f} s from the start of QEMU to its end", flush=True)
        return failed
    finish(body)
