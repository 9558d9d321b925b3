"""Each program has a man page, and `mandoc -T lint` finds nothing in any of them."""
import re
import subprocess

EXECUTABLE = re.compile(r"\bexecutable\(\s*'([^']+)'")


def check(tree):
    for path in [path for path in tree.paths
                 if path.startswith(("src/daemon/", "src/cli/")) and path.endswith("meson.build")]:
        text = tree.text(path)
        for match in EXECUTABLE.finditer(text):
            page = "man/%s.1" % match.group(1)
            if page not in tree.paths:
                yield path, tree.line(path, match.start()), "program %s has no %s" % (match.group(1), page)
    for path in tree.paths:
        if not re.match(r"man/[^/]+\.[1-8]$", path):
            continue
        done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", path], cwd=tree.root, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for line in done.stdout.splitlines():
            match = re.match(r"mandoc: [^:]+:(?:(\d+):\d+:)? (.*)$", line)
            yield path, int(match.group(1) or 1) if match else 1, match.group(2) if match else line
