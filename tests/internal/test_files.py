"""Files that are complete or absent."""

import pytest

from score_sde.internal.files import remove_temporaries, remove_temporaries_of, write_atomically, write_json, write_text


def test_what_is_written_atomically_is_whole_or_as_before(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, lambda file: file.write(b"before"))

    def fails(file):
        file.write(b"half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, fails)
    assert path.read_bytes() == b"before" and [p.name for p in tmp_path.iterdir()] == ["file"]
    (tmp_path / ".file.0123.tmp").write_bytes(b"half")
    remove_temporaries(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("file", ["file", "fi[lt]e", "*"])
def test_only_what_was_left_of_one_file_is_removed(file, tmp_path):
    folder = tmp_path / "new[1]"
    write_text(folder / file, "σ\n")
    assert (folder / file).read_bytes() == b"\xcf\x83\n"
    for name in (f".{file}.0123.tmp", f".{file}.4567.tmp", ".filter.0123.tmp", ".file2.0123.tmp"):
        (folder / name).touch()
    remove_temporaries_of(folder / file)
    assert sorted(p.name for p in folder.iterdir()) == sorted([".file2.0123.tmp", ".filter.0123.tmp", file])


def test_json_ends_with_a_line_and_is_indented_unless_asked_otherwise(tmp_path):
    write_json(tmp_path / "a.json", {"σ": [1]})
    assert (tmp_path / "a.json").read_text() == '{\n  "\\u03c3": [\n    1\n  ]\n}\n'
    write_json(tmp_path / "a.json", {"σ": 1}, indent=None, ensure_ascii=False)
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{"σ": 1}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"), allow_nan=False)
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{"σ": 1}\n'
