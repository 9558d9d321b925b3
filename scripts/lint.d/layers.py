"""A folder includes only folders of the layers below it (docs/architecture.md, "Layers").

Including what a lower layer may include is allowed too. Links are reached through fabric/link.h, implementations
of seam 1 through io/io.h; only programs name them, the table of links (fabric/links.c), and comch, which is a
protocol over the shm link. A front-end may include the folder of the protocol that it serves (frontend/comch: comch).
"""
import os
import re

BELOW = {
    "core": [],
    "mem": ["core"],
    "io": ["mem"],
    "fabric": ["io"],
    "comch": ["fabric"],
    "gateway": ["fabric", "meta"],
    "target": ["fabric", "raft", "store", "meta"],
    "frontend": ["gateway"],
    "client": ["comch"],
    "store": ["io"],
    "raft": ["core"],
    "meta": ["io"],
    "cli": None, # programs: everything
    "daemon": None,
}
# A subfolder that only itself, and these, may include.
PRIVATE = {
    ("fabric", "tcp"): [],
    ("fabric", "shm"): ["comch"],
    ("fabric", "ofi"): [],
    ("io", "uring"): [],
}
TABLE_OF_LINKS = "src/fabric/links.c"
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]', re.MULTILINE)


def reachable(layer):
    found, todo = set(), [layer]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += BELOW[name] or []
    return found


def finding(path, included):
    """What is wrong with `path` including `included`, or None."""
    folders = path.split("/")[1:-1]
    layer = folders[0] if folders else ""
    if layer not in BELOW:
        return "'src/%s' is no layer: add it to docs/architecture.md and scripts/lint.d/layers.py" % layer
    parts = included.split("/")
    if BELOW[layer] is None:
        return None
    if len(parts) < 2:
        return "write \"%s/%s\": headers are named from src/" % ("/".join(folders), included)
    other = parts[0]
    if other == "sluice" and layer == "client":
        return None
    if other not in BELOW:
        return "'%s' is no layer of src/" % other
    if folders[:2] == ["frontend", other]:
        return None
    if other not in reachable(layer):
        return "%s may not include %s (it may: %s)" % (
            layer, other, " ".join(sorted(reachable(layer) - {layer})) or "nothing")
    private = PRIVATE.get((other, parts[1])) if len(parts) > 2 else None
    if other == "fabric" and path == TABLE_OF_LINKS:
        return None
    if private is not None and layer not in private and folders[:2] != parts[:2]:
        return "%s/%s is private: only programs%s may include it" % (
            other, parts[1], " and " + " ".join(private) if private else "")
    return None


def check(tree):
    for path in tree.select(".c", ".h", under="src/"):
        code = tree.uncommented(path)
        for match in INCLUDE.finditer(code):
            if match.group(1) == "<" and not os.path.exists(tree.full("src/" + match.group(2))):
                continue # the system's
            message = finding(path, match.group(2))
            if message:
                yield path, tree.line(path, match.start(2)), message
    for path in tree.select(".h", under="include/"):
        for match in INCLUDE.finditer(tree.uncommented(path)):
            if match.group(1) == '"' and not match.group(2).startswith("sluice/"):
                yield path, tree.line(path, match.start(2)), \
                    "a public header includes only public headers, not %s" % match.group(2)
