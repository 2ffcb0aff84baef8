"""Downloads a text to train on and writes it as one UTF-8 file, ready for --data.

    python data/get.py tinyshakespeare    1.1 MB of plays, the text of many tutorials
    python data/get.py wikitext103        0.5 GB of Wikipedia articles, raw; 0.2 GB to download
    python data/get.py tinystories        2.2 GB of short stories written by GPT-4 (version 2)
    python data/get.py gutenberg 1342     a book of Project Gutenberg, by its number

The file is NAME.txt beside the versions, or --out FILE: of published splits the training one, with
blank lines between stories and sections. The same command resumes an unfinished download.
"""

import argparse
import re
import sys
import zipfile
from functools import partial
from io import TextIOWrapper
from pathlib import Path

from tqdm import tqdm

try:
    import pooch  # training needs neither: they are in requirements-dev.txt
    import requests  # what pooch downloads with
except ImportError:
    sys.exit("get.py: a package is missing: pip install pooch")

# Some servers refuse what calls itself Python; a range of compressed bytes could not be resumed.
HEADERS = {"User-Agent": "language-model-ladder", "Accept-Encoding": "identity"}
# Of a book's license: the end of the first part, the start of the second.
MARKER = r"(?:\nEnd of (?:the )?Project Gutenberg[^*]*)?\*+ ?(?:START|END) OF TH\w+ PROJECT[^*]*\*+"
read_text = partial(TextIOWrapper, encoding="utf-8")


def read_articles(file):
    """Read in place, so that no path in the archive reaches the disk. Blank lines hold a space."""
    member = zipfile.ZipFile(file).open("wikitext-103-raw/wiki.train.raw")
    return (line.strip() + "\n" for line in read_text(member))


def read_stories(file):
    """A blank line after each story, in place of the separator, and none inside it."""
    return (line.replace("<|endoftext|>", "") for line in read_text(file) if line.strip())


def read_book(file):
    """Without the license before and after it; ValueError if there is none."""
    _, book, _ = re.split(MARKER, read_text(file).read())
    return [book.strip() + "\n"]


SOURCES = {  # name: how to read it, sha256, addresses in the order in which they are tried
    # Checksum: tensorflow/datasets, url_checksums/tiny_shakespeare.txt. Second: TensorFlow's tutorial.
    "tinyshakespeare": (
        read_text,
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "https://storage.googleapis.com/download.tensorflow.org/data/shakespeare.txt",
    ),
    # Checksum: the first with blob for resolve (the publisher's is gone). Second: tysam-code/hlb-gpt.
    "wikitext103": (
        read_articles,
        "91c00ae287f0d699e18605c84afc9e45c192bc6b7797ff8837e5474655a33794",
        "https://huggingface.co/datasets/mattdangerw/wikitext-103-raw/resolve/3555105b17ae31cc619a136fac72dbe2865c3738/wikitext-103-raw-v1.zip",
        "https://wikitext.smerity.com/wikitext-103-raw-v1.zip",
    ),
    # Checksum: the first with blob for resolve, a page about the file. Second: a mirror of that site.
    "tinystories": (
        read_stories,
        "6418d412de72888f52b5142c761ac21a582f7d1166f0bfbdb5f03ccfdec90443",
        "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/f54c09fd23315a6f9c86f9dc80f725de7d8f9c64/TinyStoriesV2-GPT4-train.txt",
        "https://hf-mirror.com/datasets/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-train.txt",
    ),
    # Checksum: none is published. The mirror comes first, to spare the site that people read on.
    "gutenberg": (
        read_book,
        None,
        "https://gutenberg.pglaf.org/cache/epub/{0}/pg{0}.txt",
        "https://www.gutenberg.org/cache/epub/{0}/pg{0}.txt",
    ),
}


def fetch(url, path, _, part):
    """Download `url` to `part`, then move it to `path`: pooch's own downloader cannot resume."""
    start = part.stat().st_size if part.exists() else 0
    headers = HEADERS | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=30) as response:
        if not (start and response.status_code == 416):  # 416: nothing is left to send
            response.raise_for_status()
            start = start if response.status_code == 206 else 0  # 200: all of it again
            total = start + int(response.headers.get("Content-Length", 0)) or None
            bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem)
            with bar, open(part, "ab" if start else "wb") as file:
                for block in response.iter_content(1 << 16):
                    bar.update(file.write(block))
    part.replace(path)  # from here on pooch's, which deletes it if the checksum is wrong


def download(urls, sha256, raw, part):
    """Make `raw` from the first address that works, unless it is there already."""
    problems = []
    for url in urls:
        if not sha256:  # nothing could tell whether two halves belong together
            part.unlink(missing_ok=True)
        try:
            pooch.retrieve(url, sha256, raw.name, raw.parent, downloader=partial(fetch, part=part))
            return
        except requests.RequestException as error:
            problems.append(f"{url}: {getattr(error.response, 'status_code', 'connection failed')}")
        except ValueError:  # from pooch
            problems.append(f"{url}: wrong checksum")
    problems.append(f"try again, or download it by hand to {raw} and repeat this command")
    sys.exit("get.py: " + "; ".join(problems))


def main(arguments=None):
    parser = argparse.ArgumentParser("get.py", description="Download a text to train on.")
    parser.add_argument("name", choices=SOURCES)
    parser.add_argument("number", type=int, nargs="?", default=0, help="of the book")
    parser.add_argument("--out", type=Path, metavar="FILE")
    args = parser.parse_args(arguments)
    if (args.name == "gutenberg") != (args.number > 0):
        parser.error("gutenberg, and no other, takes the number of a book: gutenberg 1342")
    out = args.out or Path(__file__).resolve().parent.parent / f"{args.name}{args.number or ''}.txt"
    if out.exists() or not out.parent.is_dir():
        parser.error(f"{out} is there already, or its folder is not")
    raw, part, temporary = (out.with_name(out.name + end) for end in (".download", ".part", ".tmp"))
    pooch.get_logger().setLevel("ERROR")
    read, sha256, *urls = SOURCES[args.name]
    try:
        download([url.format(args.number) for url in urls], sha256, raw, part)
        with open(raw, "rb") as file, open(temporary, "w", encoding="utf-8", newline="\n") as text:
            text.writelines(read(file))
        temporary.replace(out)
        raw.unlink()
        print(f"{out}: {out.stat().st_size:,} bytes")
    except ValueError:
        raw.unlink()
        sys.exit(f"get.py: what came is not {args.name} {args.number}; try again later")
    except OSError as error:
        sys.exit(f"get.py: {error.filename or out}: {error.strerror or error}")
    except KeyboardInterrupt:
        sys.exit("get.py: stopped; the same command resumes")
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
