"""C files are laid out as .clang-format says (`make format` does it)."""
import re
import subprocess


def check(tree):
    paths = tree.select(".c", ".h")
    for begin in range(0, len(paths), 20):
        done = subprocess.run(["clang-format", "--dry-run", "-Werror", "-style=file"] + paths[begin:begin + 20],
                              cwd=tree.root, stderr=subprocess.PIPE, text=True)
        findings = re.findall(r"^(\S+?):(\d+):\d+: (?:error|warning): (.*)$", done.stderr, re.MULTILINE)
        if done.returncode != 0 and not findings:
            yield paths[begin], 1, "clang-format failed: " + done.stderr.strip()[:300]
        seen = set()
        for path, line, message in findings: # one a file is enough to know
            if path not in seen:
                seen.add(path)
                yield path, int(line), message
