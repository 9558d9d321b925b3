"""Each folder of src/ with code in it has a README.md that names its files (STYLE: layout)."""
import re


def check(tree):
    sources = tree.select(".c", ".h", under="src/")
    folders = sorted({path.split("/")[1] for path in sources if path.count("/") >= 2})
    for folder in folders:
        readme = "src/%s/README.md" % folder
        if readme not in tree.paths:
            yield readme, 1, "there is none: its job, what comes in, what goes out, invariants, files in reading order"
            continue
        text = tree.text(readme)
        for path in sources:
            # wal.c and wal.h are one entry: "wal" is enough. Of a subfolder its name is.
            parts = path.split("/")
            if parts[1] != folder:
                continue
            name = parts[2] if len(parts) > 3 else parts[2].rsplit(".", 1)[0]
            if not re.search(r"(?<![\w])%s(?![\w])" % re.escape(name), text):
                yield readme, 1, "does not mention %s" % path
