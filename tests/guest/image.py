"""The initial RAM disk of a guest: busybox, programs of this machine with the libraries they need, kernel modules and
files. Built anew only when something in it changed."""
import ast
import glob
import hashlib
import os
import re
import stat
import subprocess
import sys
import tempfile

from kernel import Missing, cache_directory, find_kernel, find_program, locked

HERE = os.path.dirname(os.path.abspath(__file__))
# What the guest needs to reach the host's folder: see agent.sh.
BASE_MODULES = ["virtio_pci", "9pnet_virtio", "9p"]
IMAGES_KEPT = 6
ETC = {
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "passwd": "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/tmp:/bin/sh\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
}
# The files behind the modules that a script imports. Encodings are found by name, when they are first needed.
PYTHON_FILES = """
import sys, encodings.ascii, encodings.latin_1, encodings.utf_8, encodings.idna, {names}
for module in list(sys.modules.values()):
    if getattr(module, "__file__", None):
        print(module.__file__)
"""
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}


def libraries(program):
    """The shared libraries that ldd finds, the loader among them; none for a static program or a script."""
    shown = subprocess.run(["ldd", program], capture_output=True, text=True)
    if "not found" in shown.stdout:
        raise Missing(f"{program} needs a library that is not installed:\n{shown.stdout}")
    return re.findall(r"(?:=> )?(/\S+) \(0x", shown.stdout)


class Archive:
    """Writes a cpio archive of the kind that the kernel unpacks (newc: Documentation/driver-api/early-userspace)."""

    def __init__(self, file):
        self.file = file
        self.number = 0

    def entry(self, name, mode, data=b"", device=(0, 0)):
        self.number += 1
        encoded = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = [self.number, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(encoded), 0]
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        for part in (header + encoded, data):
            self.file.write(part + b"\0" * (-len(part) % 4))

    def end(self):
        self.number = 0
        self.entry("TRAILER!!!", 0)


class Image:
    """What shall be in the guest; `build()` answers the file. The kernel comes with it."""

    def __init__(self):
        self.kernel = find_kernel()
        self.module_names = []
        self.files = {}  # name in the guest -> path here, or bytes
        self.modes = {}
        self.program("busybox", "dash")
        self.file("/usr/bin/sh", find_program("dash"))
        self.file("/init", os.path.join(HERE, "agent.sh"))
        for name, text in ETC.items():
            self.file(f"/etc/{name}", text.encode(), mode=0o644)
        self.base = self.kernel.order(BASE_MODULES)
        self.modules(*BASE_MODULES)

    @staticmethod
    def place(name):
        """/lib/x and /usr/lib/x are the same file in the guest, as on Debian."""
        first, _, rest = name.lstrip("/").partition("/")
        return f"{LINKS.get(first, first)}/{rest}" if rest else first

    def file(self, name, source, mode=0o755):
        """`source`: a path, or bytes."""
        name = self.place(name)
        self.files[name] = source
        self.modes[name] = mode
        return self

    def program(self, *programs):
        """Programs by name (found in PATH) or by path; they go to /usr/bin."""
        for program in programs:
            path = os.path.abspath(program) if "/" in program else find_program(program)
            if not os.access(path, os.X_OK):
                raise Missing(f"{path} is not built")
            self.file(f"/usr/bin/{os.path.basename(path)}", path)
            for library in libraries(path):
                self.file(library, library)
        return self

    def library(self, pattern):
        """Libraries that are opened at run time, and what they need. A pattern, as Debian's paths hold the architecture."""
        found = glob.glob(pattern)
        if not found:
            raise Missing(f"there is no {pattern} (scripts/deps test)")
        for path in found:
            for each in [path, *libraries(path)]:
                self.file(each, each)
        return self

    def python(self, script):
        """A Python script of ours at /usr/bin, with the interpreter that runs this and the modules that it imports; those
        that lie beside it too."""
        names, ours, files = set(), [script], set()
        while ours:
            path = ours.pop()
            files.add(path)
            with open(path, "rb") as file:
                tree = ast.parse(file.read())
            found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
            found |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            for name in found:
                beside = os.path.join(os.path.dirname(script), f"{name}.py")
                if not os.path.exists(beside):
                    names.add(name)
                elif beside not in files:
                    ours.append(beside)
        shown = subprocess.run([sys.executable, "-S", "-c", PYTHON_FILES.format(names=", ".join(sorted(names)))], check=True,
                               capture_output=True, text=True).stdout
        for path in shown.splitlines():
            for each in [path, *(libraries(path) if path.endswith(".so") else [])]:
                self.file(each, each)
        for path in files:
            self.file(f"/usr/bin/{os.path.basename(path)}", path)
        executable = os.path.realpath(sys.executable)
        self.file("/usr/bin/python3", executable)
        for library in libraries(executable):
            self.file(library, library)
        return self

    def modules(self, *names):
        """Modules with their dependencies. The guest loads them when told: Guest.load()."""
        self.module_names += names
        for name, path in self.kernel.order(names):
            self.file(f"/modules/{os.path.basename(path)}", path)
        return self

    def key(self):
        digest = hashlib.sha256(self.kernel.release.encode())
        for name, source in sorted(self.files.items()):
            if isinstance(source, bytes):
                what = hashlib.sha256(source).hexdigest()
            else:
                state = os.stat(source)
                what = f"{os.path.realpath(source)} {state.st_size} {state.st_mtime_ns}"
            digest.update(f"{name} {self.modes[name]:o} {what}\n".encode())
        return digest.hexdigest()[:24]

    def write(self, file):
        archive = Archive(file)
        directories = {"dev", "proc", "sys", "run", "tmp", "host", "etc", "root", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64"}
        directories |= {os.path.dirname(name) for name in self.files}
        every = set()
        for name in directories:
            while name:
                every.add(name)
                name = os.path.dirname(name)
        for name in sorted(every):
            archive.entry(name, stat.S_IFDIR | (0o1777 if name == "tmp" else 0o755))
        for name, target in LINKS.items():
            archive.entry(name, stat.S_IFLNK | 0o777, target.encode())
        archive.entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
        archive.entry("base-modules", stat.S_IFREG | 0o644,
                      "".join(f"/modules/{os.path.basename(path)}\n" for _, path in self.base).encode())
        for name, source in sorted(self.files.items()):
            if not isinstance(source, bytes):
                with open(source, "rb") as content:
                    source = content.read()
            archive.entry(name, stat.S_IFREG | self.modes[name], source)
        archive.end()

    def build(self):
        directory = cache_directory()
        path = f"{directory}/image-{self.key()}.cpio"
        with locked(directory):
            if not os.path.exists(path):
                with tempfile.NamedTemporaryFile(dir=directory, prefix="image-new-", delete=False) as file:
                    self.write(file)
                os.rename(file.name, path)
            os.utime(path)
            # By use, oldest first; a guest that has started has read its own.
            images = sorted(glob.glob(f"{directory}/image-*.cpio"), key=os.path.getmtime)
            for old in images[:-IMAGES_KEPT]:
                os.unlink(old)
        return path
