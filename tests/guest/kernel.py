"""Debian's kernel for the guests: fetched once, unpacked under the cache and never installed; with the order in which
its modules load.

Found in this order: what the cache holds, a kernel installed on this machine, the package of the distribution."""
import contextlib
import fcntl
import glob
import os
import platform
import re
import shutil
import subprocess
import tempfile

META_PACKAGE = "linux-image-amd64"
# What no test of storage or networks loads: more than half of the package.
LEFT_OUT = ["drivers/gpu", "drivers/media", "drivers/staging", "drivers/net/wireless", "sound"]
DOWNLOAD_LIMIT_S = 300


class Missing(Exception):
    """Something that this machine lacks: the test is skipped, with these words."""


def find_program(name):
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin")
    if path is None:
        raise Missing(f"{name} is not installed (scripts/deps test)")
    return path


def cache_directory():
    """SLUICE_GUEST_CACHE, or a folder of the build; never the tree."""
    build = os.environ.get("MESON_BUILD_ROOT") or os.environ.get("BUILD") or os.path.join(
        os.path.dirname(os.path.abspath(__file__)), "..", "..", "build")
    path = os.path.abspath(os.environ.get("SLUICE_GUEST_CACHE") or os.path.join(build, "guest-cache"))
    os.makedirs(path, exist_ok=True)
    return path


@contextlib.contextmanager
def locked(directory):
    """Tests of several suites, or several builds that share a cache, prepare it one after the other."""
    with open(os.path.join(directory, "lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Kernel:
    """A bootable image and its modules. `release` as uname -r would say it."""

    def __init__(self, image, modules):
        self.image = image
        self.modules = modules
        self.release = os.path.basename(modules)
        self.dependencies = {}
        self.builtin = set()
        with open(f"{modules}/modules.dep") as file:
            for line in file:
                path, _, needs = line.partition(":")
                self.dependencies[self.name(path)] = (path, [self.name(need) for need in needs.split()])
        with open(f"{modules}/modules.builtin") as file:
            self.builtin = {self.name(line.strip()) for line in file}

    @staticmethod
    def name(path):
        return re.sub(r"\.ko(\.\w+)?$", "", os.path.basename(path)).replace("-", "_")

    def order(self, names):
        """The modules to insert for `names`, dependencies first: (name, path). What is built in needs none."""
        done, result = set(), []

        def visit(name):
            if name in done or name in self.builtin:
                return
            done.add(name)
            if name not in self.dependencies:
                raise Missing(f"kernel {self.release} has no module {name}")
            path, needs = self.dependencies[name]
            for need in reversed(needs):  # modules.dep names the deepest last
                visit(need)
            result.append((name, os.path.join(self.modules, path)))
        for name in names:
            visit(name.replace("-", "_"))
        return result


def usable(image, modules):
    return os.access(image, os.R_OK) and os.access(f"{modules}/modules.dep", os.R_OK)


def installed():
    for modules in sorted(glob.glob("/lib/modules/*-amd64"), reverse=True):
        image = f"/boot/vmlinuz-{os.path.basename(modules)}"
        if usable(image, modules):
            yield image, modules


def unpacked(cache):
    for modules in sorted(glob.glob(f"{cache}/kernel/lib/modules/*"), reverse=True):
        image = f"{cache}/kernel/boot/vmlinuz-{os.path.basename(modules)}"
        if usable(image, modules):
            yield image, modules


def run(command, directory=None):
    try:
        return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=DOWNLOAD_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"no kernel package: {error}")


def package_name(options):
    """The real package behind the meta package, as apt knows it; None if apt has no lists."""
    shown = run(["apt-cache", *options, "depends", META_PACKAGE]).stdout
    found = re.search(r"Depends: (linux-image-\S+)", shown)
    return found.group(1) if found else None


def private_lists(cache):
    """Options by which apt keeps lists of its own below the cache: needs no root and touches nothing of the machine."""
    state = f"{cache}/apt"
    os.makedirs(f"{state}/lists/partial", exist_ok=True)
    os.makedirs(f"{state}/archives/partial", exist_ok=True)
    return ["-o", f"Dir::State::lists={state}/lists", "-o", f"Dir::Cache={state}", "-o", "Debug::NoLocking=1"]


def download(cache, directory):
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Missing("no kernel package: this is not a Debian system, and no kernel is in the cache "
                      f"({cache}/kernel: boot/vmlinuz-RELEASE and lib/modules/RELEASE)")
    options, said = [], ""
    for attempt in ("the machine's lists", "fresh lists"):
        if attempt == "fresh lists":
            options = private_lists(cache)
            run(["apt-get", *options, "update"])
        name = package_name(options)
        if name is None:
            said = f"apt knows no {META_PACKAGE}"
            continue
        said = run(["apt-get", *options, "download", name], directory).stderr
        found = glob.glob(f"{directory}/{name}_*.deb")
        if found:
            return found[0]
    raise Missing(f"the kernel package cannot be had (no network?): {said.strip()[-300:]}")


def unpack(package, directory):
    excludes = [f"--exclude=./lib/modules/*/kernel/{part}" for part in LEFT_OUT]
    reader = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
    writer = subprocess.run(["tar", "-x", "-C", directory, *excludes, "./boot", "./lib/modules"], stdin=reader.stdout)
    reader.stdout.close()
    if reader.wait() != 0 or writer.returncode != 0:
        raise Missing(f"{os.path.basename(package)} cannot be unpacked")
    for modules in glob.glob(f"{directory}/lib/modules/*"):
        subprocess.run([find_program("depmod"), "-b", directory, os.path.basename(modules)], check=True)


def fetch(cache):
    with tempfile.TemporaryDirectory(prefix="kernel-", dir=cache) as directory:
        os.chmod(directory, 0o755)
        package = download(cache, directory)
        os.mkdir(f"{directory}/root")
        unpack(package, f"{directory}/root")
        shutil.rmtree(f"{cache}/kernel", ignore_errors=True)
        os.rename(f"{directory}/root", f"{cache}/kernel")


def find_kernel():
    """The kernel, fetched first if need be. Missing, with the reason, where there is none."""
    if platform.machine() != "x86_64":
        raise Missing(f"guests are x86_64, and this machine is {platform.machine()}")
    cache = cache_directory()
    with locked(cache):
        for source in (lambda: unpacked(cache), installed):
            for image, modules in source():
                return Kernel(image, modules)
        fetch(cache)
        for image, modules in unpacked(cache):
            return Kernel(image, modules)
    raise Missing("the kernel package holds no kernel")
