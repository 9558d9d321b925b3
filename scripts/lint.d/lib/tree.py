"""The files that the checks look at, and just enough C to find functions in them."""
import os
import re
import subprocess

# Samples that are wrong on purpose.
EXCLUDED = "tests/lint/"


def blank(match):
    """Spaces instead of text; line breaks stay, so that positions do."""
    return re.sub(r"[^\n]", " ", match.group(0))


TOKEN = re.compile(
    r"//(?:\\\n|[^\n])*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.DOTALL)
COMMENT = re.compile(r"//(?:\\\n|[^\n])*|/\*.*?\*/", re.DOTALL)
# With _Static_assert and attributes away, the first name before a parenthesis is the function's.
NOISE = re.compile(r"__attribute__\s*\(\(.*?\)\)|_Alignas\s*\([^)]*\)|__typeof__\s*\([^)]*\)", re.DOTALL)
NAME = re.compile(r"(\w+)\s*\(")


class Function:
    """A definition. Lines count from 1; `start` is the signature's first, `open` the brace's, `end` the last."""

    def __init__(self, name, start, opening, end, signature, body):
        self.name, self.start, self.open, self.end = name, start, opening, end
        self.signature, self.body = signature, body


class Tree:
    def __init__(self, root):
        self.root = root
        self._text, self._code, self._functions = {}, {}, {}
        self.paths = self._list()

    def _list(self):
        git = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--full-name"],
            cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        top = subprocess.run(["git", "rev-parse", "--show-toplevel"], cwd=self.root, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if git.returncode == 0 and os.path.realpath(top.stdout.strip()) == os.path.realpath(self.root):
            paths = [path for path in git.stdout.decode().split("\0") if path]
        else: # an unpacked archive, or a sample tree
            paths = []
            for folder, folders, files in os.walk(self.root):
                folders[:] = [name for name in folders
                              if name not in (".git", "__pycache__") and not name.startswith("build")]
                paths += [os.path.relpath(os.path.join(folder, name), self.root) for name in files]
        return sorted(path for path in set(paths)
                      if not path.startswith(EXCLUDED) and os.path.isfile(self.full(path)))

    def full(self, path):
        return os.path.join(self.root, path)

    def select(self, *suffixes, under=""):
        return [path for path in self.paths if path.endswith(suffixes) and path.startswith(under)]

    def text(self, path):
        if path not in self._text:
            with open(self.full(path), encoding="utf-8", errors="replace") as file:
                self._text[path] = file.read()
        return self._text[path]

    def code(self, path):
        """The text without comments, strings and characters, at the same positions."""
        if path not in self._code:
            self._code[path] = TOKEN.sub(blank, self.text(path))
        return self._code[path]

    def uncommented(self, path):
        """The text without comments; strings stay (for #include)."""
        def keep_strings(match):
            return blank(match) if match.group(0).startswith(("//", "/*")) else match.group(0)
        return TOKEN.sub(keep_strings, self.text(path))

    def line(self, path, offset):
        return self.text(path).count("\n", 0, offset) + 1

    def functions(self, path):
        """Definitions: in our layout a function, and nothing else, has its braces alone in column 0."""
        if path not in self._functions:
            self._functions[path] = list(find_functions(self.code(path)))
        return self._functions[path]


def find_functions(code):
    lines = code.split("\n")
    is_directive, continued = [], False
    for line in lines:
        directive = continued or line.lstrip().startswith("#")
        continued = directive and line.rstrip().endswith("\\")
        is_directive.append(directive)
    for index, line in enumerate(lines):
        if line.rstrip() != "{" or is_directive[index]:
            continue
        start = index
        while start > 0 and not is_directive[start - 1] and \
                not re.search(r"[;{}]\s*$", lines[start - 1]) and lines[start - 1].strip():
            start -= 1
        end = index
        while end < len(lines) - 1 and not lines[end].startswith("}"):
            end += 1
        signature = "\n".join(lines[start:index])
        found = NAME.search(NOISE.sub(blank, signature))
        if found:
            yield Function(found.group(1), start + 1, index + 1, end + 1, signature,
                           "\n".join(lines[index:end + 1]))
