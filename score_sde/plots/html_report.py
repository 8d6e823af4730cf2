"""A report of a run as one page: numbers, pictures, their commands, the configuration and the environment.

The page needs no network, no script and no other file. The pictures are inside the page, and it
follows the light or dark mode of the browser. A section is any object with a `title` and a method
`html()`. All text from outside is escaped.
"""

import base64
import dataclasses
import functools
import html
import importlib.metadata
import io
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

MEDIA_TYPES = {
    ".png": "image/png",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".svg": "image/svg+xml",
}
WIDEST = 1400  # the largest width, in pixels, of a picture that is copied smaller
PACKAGES = ("score_sde", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@runtime_checkable
class Section(Protocol):
    """A part of the page under a heading."""

    @property
    def title(self) -> str:
        """The heading."""

    def html(self) -> str:
        """The markup below the heading."""


@dataclasses.dataclass(frozen=True)
class Text:
    """Paragraphs, separated by empty lines."""

    title: str
    text: str

    def html(self) -> str:
        return "".join(f"<p>{html.escape(part.strip())}</p>" for part in self.text.split("\n\n") if part.strip())


@dataclasses.dataclass(frozen=True)
class Commands:
    """Command lines, as the reader would type them."""

    commands: Sequence[str]
    title: str = "Commands"

    def html(self) -> str:
        return f"<pre><code>{html.escape(chr(10).join(self.commands))}</code></pre>"


@dataclasses.dataclass(frozen=True)
class Number:
    """One measured value.

    `error` is one standard error (None: not known). `explanation` says how to read the value.
    """

    name: str
    value: float | int | str
    unit: str = ""
    error: float | int | None = None
    explanation: str = ""

    def html(self) -> str:
        value, cell = format_value(self.value, self.error), "<td class=value>"
        if isinstance(self.value, float) and not math.isfinite(self.value):
            cell = '<td class="value bad">'
        unit = f" <span class=unit>{html.escape(self.unit)}</span>" if self.unit else ""
        name, explanation = html.escape(self.name), html.escape(self.explanation)
        return (
            f"<tr><th scope=row>{name}</th>{cell}{html.escape(value)}{unit}</td><td class=note>{explanation}</td></tr>"
        )


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A table of measured values."""

    numbers: Sequence[Number]
    title: str = "Key numbers"

    def html(self) -> str:
        head = "<tr><th scope=col>Quantity</th><th scope=col class=value>Value</th><th scope=col>Meaning</th></tr>"
        rows = "".join(number.html() for number in self.numbers)
        return f"<div class=scroll><table class=numbers><thead>{head}</thead><tbody>{rows}</tbody></table></div>"


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image file, copied into the page. `wide` gives it a line of its own.

    A file of more than `most_bytes` is copied smaller: at most 1,400 pixels wide, and with slight
    losses.
    """

    path: str | os.PathLike[str]
    caption: str
    wide: bool = True
    most_bytes: int | None = None

    def html(self) -> str:
        kind = "wide" if self.wide else "half"
        source, caption = data_uri(self.path, self.most_bytes), html.escape(self.caption)
        image = f'<img src="{source}" alt="{html.escape(self.caption, quote=True)}">'
        return f"<figure class={kind}><div class=frame>{image}</div><figcaption>{caption}</figcaption></figure>"


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Images with captions. Two that are not wide stand side by side where there is room."""

    pictures: Sequence[Picture]
    title: str = "Pictures"

    def html(self) -> str:
        return f"<div class=gallery>{''.join(picture.html() for picture in self.pictures)}</div>"


@dataclasses.dataclass(frozen=True)
class Table:
    """Names and values, such as a configuration or the environment.

    Nested mappings become dotted names. `folded` shows only the heading, until the reader opens the
    table.
    """

    title: str
    values: Mapping[str, Any]
    folded: bool = False

    def html(self) -> str:
        row = "<tr><th scope=row>{}</th><td>{}</td></tr>".format
        rows = "".join(row(html.escape(name), html.escape(str(value))) for name, value in flatten(self.values).items())
        table = f"<div class=scroll><table class=plain><tbody>{rows}</tbody></table></div>"
        return (
            f"<details><summary>{len(flatten(self.values))} values</summary>{table}</details>" if self.folded else table
        )


@dataclasses.dataclass(frozen=True)
class Rows:
    """A table with a heading for each column, such as evaluations, or fields of several runs. Every cell is text."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def html(self) -> str:
        head = "".join(f"<th scope=col>{html.escape(name)}</th>" for name in self.header)
        lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in self.rows]
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        note = f"<p class=note>{html.escape(self.note)}</p>" if self.note else ""
        table = f"<table class=rows><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f"<div class=scroll>{table}</div>{note}"


@dataclasses.dataclass(frozen=True)
class Report:
    """The page: a title, one or two sentences below it, and sections in order."""

    title: str
    summary: str = ""
    sections: Sequence[Section] = ()

    def html(self) -> str:
        """The whole document."""
        body = "".join(f"<section><h2>{html.escape(s.title)}</h2>{s.html()}</section>" for s in self.sections)
        title, summary = html.escape(self.title), html.escape(self.summary)
        lead = f"<p class=lead>{summary}</p>" if summary else ""
        return PAGE.format(title=title, style=STYLE, lead=lead, body=body)

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Writes the document. Makes missing folders."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.html(), encoding="utf-8")
        return path


def format_value(value: float | int | str, error: float | int | None = None) -> str:
    """A value rounded to two digits of the error (value ± error), or to four digits where no error is known."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else value
    if not math.isfinite(value):
        return str(value)
    if error is None or not math.isfinite(error) or error <= 0:
        rounded = f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
        return rounded if error is None or error == 0 else f"{rounded} ± {error}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    if decimals > 6:
        return f"{value:.4g} ± {error:.2g}"
    return f"{value:,.{decimals}f} ± {error:,.{decimals}f}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a.b": 1} for {"a": {"b": 1}}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if hasattr(value, "items") and value else {f"{prefix}{name}": value}
    return flat


def data_uri(path: str | os.PathLike[str], most_bytes: int | None = None) -> str:
    """The file as a data: address. A picture of more than `most_bytes` becomes a smaller WebP.

    Raises: ValueError for a file that is missing or of a kind that browsers do not show.
    """
    path = Path(path)
    media_type = MEDIA_TYPES.get(path.suffix.lower())
    if media_type is None or not path.is_file():
        problem = f"a file that ends in {', '.join(MEDIA_TYPES)}" if media_type is None else "a file that exists"
        raise ValueError(f"Picture needs {problem}, got {str(path)!r}; make the picture before the report.")
    content = path.read_bytes()
    if most_bytes is not None and len(content) > most_bytes and media_type in ("image/png", "image/jpeg"):
        content, media_type = _smaller(content), "image/webp"
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def _smaller(content: bytes) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as opened:
        image = opened.convert("RGB")
    if image.width > WIDEST:
        image = image.resize((WIDEST, max(1, round(image.height * WIDEST / image.width))))
    written = io.BytesIO()
    image.save(written, "WEBP", quality=88)
    return written.getvalue()


def environment() -> dict[str, str]:
    """The facts that a reader needs to judge a measured time: devices, processor, Python and package versions."""
    import jax

    devices = jax.devices()
    versions = {name: package_version(name) for name in PACKAGES}
    return {
        "devices": f"{len(devices)} × {devices[0].device_kind} ({devices[0].platform})",
        "processes": str(jax.process_count()),
        "processor": f"{processor_name()}, {os.cpu_count()} cores",
        "operating system": platform.platform(aliased=True, terse=True),
        "Python": platform.python_version(),
        "packages": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
    }


@functools.cache
def code_version() -> str:
    """The commit of the code, with "+ changes" where files differ from the commit.

    Outside of a checkout it is the version of the package.
    """
    folder, version = Path(__file__).parent, f"score_sde {package_version('score_sde') or 'of unknown version'}"

    def git(*words: str) -> str | None:
        try:
            found = subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return found.stdout.strip() if found.returncode == 0 else None

    # An installed package may lie inside a checkout of another project.
    commit = git("rev-parse", "HEAD") if git("ls-files", "--error-unmatch", Path(__file__).name) else None
    if commit is None:
        return version
    return f"{commit} + changes" if git("status", "--porcelain", "--untracked-files=no") else commit


def package_version(name: str) -> str | None:
    """The installed version, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor_name() -> str:
    """The processor's model as Linux names it, or as Python knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header><h1>{title}</h1>{lead}</header>
{body}
</main>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfc; --ink: #1f2933; --muted: #616e7c; --line: #e3e6ea;
  --code: #f3f5f7; --accent: #2f6fb0; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e4e8ec; --muted: #97a3b0;
  --line: #2c343d; --code: #1c2229; --accent: #7db4e6; --bad: #ff8a7a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.6; font-size: 17px;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 3.5rem 1.5rem 5rem; }
h1 { font-size: clamp(1.8rem, 4vw, 2.5rem); line-height: 1.15; letter-spacing: -0.02em; margin: 0 0 0.6rem;
  text-wrap: balance; }
h2 { font-size: 1.25rem; letter-spacing: -0.01em; margin: 0 0 1rem; }
.lead { font-size: 1.15rem; color: var(--muted); max-width: 44rem; margin: 0; }
section { margin-top: 2.75rem; padding-top: 1.75rem; border-top: 1px solid var(--line); }
p { max-width: 44rem; }
pre { background: var(--code); border: 1px solid var(--line); border-radius: 8px; padding: 0.9rem 1.1rem; margin: 0;
  overflow-x: auto; font-size: 0.86rem; line-height: 1.55; }
code { font-family: ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.93rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: baseline; padding: 0.5rem 1.25rem 0.5rem 0;
  border-bottom: 1px solid var(--line); }
tr > :last-child { padding-right: 0; }
thead th { font-size: 0.75rem; font-weight: 600; letter-spacing: 0.05em; text-transform: uppercase;
  color: var(--muted); }
tbody th { font-weight: 600; min-width: 11rem; }
td.value { font-weight: 600; white-space: nowrap; color: var(--accent); }
td.value.bad { color: var(--bad); }
.unit { font-weight: 400; color: var(--muted); }
.note { color: var(--muted); }
.plain th { font-weight: 400; color: var(--muted); min-width: 0; width: 1%; white-space: nowrap; padding-right: 2rem; }
.plain td { overflow-wrap: anywhere; }
.rows { width: max-content; min-width: 100%; }
.rows th, .rows td { padding: 0.4rem 1.3rem 0.4rem 0; white-space: nowrap; vertical-align: top; }
.rows thead th { text-transform: none; letter-spacing: 0; font-size: 0.83rem; }
.rows td { max-width: 30rem; white-space: normal; overflow-wrap: anywhere; } .rows td:first-child { font-weight: 600; }
p.note { font-size: 0.9rem; }
.gallery { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 2rem; }
figure { margin: 0; }
figure.wide { grid-column: 1 / -1; }
.frame { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: 0.75rem; text-align: center; }
img { max-width: 100%; height: auto; vertical-align: middle; }
figcaption { color: var(--muted); font-size: 0.9rem; margin-top: 0.6rem; max-width: 44rem; }
summary { cursor: pointer; color: var(--muted); font-size: 0.93rem; margin-bottom: 0.5rem; }
@media (prefers-color-scheme: dark) { .frame { border-color: transparent; filter: brightness(0.92); } }
@media (max-width: 40rem) {
  body { font-size: 16px; } main { padding-top: 2rem; } .numbers thead { display: none; }
  .numbers tr { display: grid; grid-template-columns: 1fr auto; padding: 0.5rem 0;
    border-bottom: 1px solid var(--line); }
  .numbers th, .numbers td { border: 0; padding: 0 0 0.15rem; min-width: 0; } .numbers .note { grid-column: 1 / -1; } }
@media print { section { break-inside: avoid; } body { font-size: 11pt; } }
"""
