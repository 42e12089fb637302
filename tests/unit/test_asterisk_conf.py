"""Reading Asterisk's configuration files; tests/switch/test_doctor.py holds it against what Asterisk itself reads."""

from pathlib import Path

import pytest

from fairdial import asterisk_conf
from fairdial.asterisk_conf import Conf, ConfError, read_conf


def conf(folder: Path, text: str, **files: str) -> Conf:
    """The file `x.conf` of that text, beside others by name without ending."""
    for name, content in files.items():
        (folder / f"{name}.conf").write_text(content)
    (folder / "x.conf").write_text(text)
    return read_conf(folder / "x.conf")


def settings(read: Conf) -> list[tuple[str, list[tuple[str, str]]]]:
    return [
        (section.name, [(each.key, each.value) for each in section.settings]) for section in read.sections
    ]


def test_settings_keep_their_order_and_say_where_they_are(tmp_path: Path) -> None:
    read = conf(tmp_path, "[a]\nx = 1\n\ny => two words ; said\nX=3\n[a]\nx=4\n")
    assert settings(read) == [("a", [("x", "1"), ("y", "two words"), ("X", "3")]), ("a", [("x", "4")])]
    first = read.named("A")[0]
    assert [str(each.place) for each in first.settings] == [f"{tmp_path}/x.conf:{line}" for line in (2, 4, 5)]
    assert (first.value("x"), first.value("z", "none"), first.last("z")) == ("3", "none", None)
    last = read.last("a", "x")
    assert last is not None
    assert (last.value, last.place.line) == ("4", 7)


def test_templates_hand_on_and_are_no_sections(tmp_path: Path) -> None:
    read = conf(tmp_path, "[t](!)\ntype=endpoint\n[u](!,t)\nb=1\n[v](u)\nb=2\n[w]\ntype=aor\n")
    assert settings(read) == [("v", [("type", "endpoint"), ("b", "1"), ("b", "2")]), ("w", [("type", "aor")])]
    assert [template.name for template in read.templates] == ["t", "u"]
    [endpoint] = read.of_type("endpoint")
    assert (endpoint.inherits, endpoint.value("b")) == (("u",), "2")
    # What is inherited is where it is written.
    assert endpoint.settings[0].place.line == 2


def test_a_section_goes_on_and_a_value_grows(tmp_path: Path) -> None:
    read = conf(tmp_path, "[a]\nx=1\n[b]\n[a](+)\nx += 2\ny=3\n")
    assert settings(read) == [("a", [("x", "1 2"), ("y", "3")]), ("b", [])]


def test_comments_are_left_out(tmp_path: Path) -> None:
    text = "; one\n[a] ; two\nx=1;three\n;-- four\ny=2\n;-- five --; still --; z=3\n;--- a line\nw=a\\;b\n"
    assert settings(conf(tmp_path, text)) == [("a", [("x", "1"), ("z", "3"), ("w", "a;b")])]


def test_a_comment_without_end_is_said(tmp_path: Path) -> None:
    read = conf(tmp_path, "[a]\nx=1\n;-- open\ny=2\n")
    assert settings(read) == [("a", [("x", "1")])]
    assert [(note.place.line, note.text) for note in read.skipped] == [
        (3, "the comment that begins here has no end")
    ]


def test_files_are_included_where_they_are_named(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "2.conf").write_text("k=2\n")
    (tmp_path / "d" / "1.conf").write_text("[i]\nk=1\n")
    read = conf(tmp_path, '[a]\nx=1\n#include d/*.conf\ny=2\n#include "one.conf"\n', one="z=3\n")
    assert settings(read) == [("a", [("x", "1"), ("y", "2"), ("z", "3")]), ("i", [("k", "1"), ("k", "2")])]
    assert [file.name for file in read.files] == ["x.conf", "1.conf", "2.conf", "one.conf"]


def test_relative_includes_count_from_the_folder_of_all(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "in.conf").write_text("#include other.conf\n")
    read = conf(tmp_path, "[a]\n#include d/in.conf\n", other="[b]\nx=1\n")
    assert settings(read) == [("a", []), ("b", [("x", "1")])]


def test_a_file_that_may_be_missing_may_be(tmp_path: Path) -> None:
    assert settings(conf(tmp_path, "[a]\n#tryinclude nope.conf\nx=1\n")) == [("a", [("x", "1")])]


def test_a_program_is_named_and_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    read = conf(tmp_path, f"[a]\n#exec /usr/bin/touch {ran}\nx=1\n")
    assert settings(read) == [("a", [("x", "1")])]
    assert [(note.place.line, note.text) for note in read.executed] == [(2, f"/usr/bin/touch {ran}")]
    assert not ran.exists()


@pytest.mark.parametrize("line", ["no equals sign", "= nameless", "#pragma once", "#include"])
def test_what_asterisk_skips_is_skipped_and_said(tmp_path: Path, line: str) -> None:
    read = conf(tmp_path, f"[a]\n{line}\nx=1\n")
    assert settings(read) == [("a", [("x", "1")])]
    assert [note.place.line for note in read.skipped] == [2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x=1\n", "x.conf:1: a setting before the first section; put [general]"),
        ("[a]\n[b\n", "x.conf:2: a section's name has no end; write it as [name]"),
        ("[a](!\n", "x.conf:1: [a] has options without end; put )"),
        ("[a](t)\n[t](!)\n", "x.conf:1: [a] inherits from [t], which is not there; define it above"),
        ("[t](!)\n[a]( t )\n", "x.conf:2: [a] inherits from [ t ], which is not there"),
        ("[a](+)\n", "x.conf:1: [a](+) adds to a section that is not there; define it above"),
        ("[a]\n#include nope.conf\n", "x.conf:2: #include nope.conf: there is no such file; put it there"),
        ("[a]\n#include no/*.conf\n", "x.conf:2: #include no/*.conf: there is no such file"),
        ("[a]\n#include x.conf\n", "x.conf:2: "),
        ("[a]\n#include x.conf\n", "x.conf includes itself, or a file that includes it; take this line away"),
        (f"[a]\nx={'y' * 9000}\n", "x.conf:2: a line longer than 8191 characters"),
    ],
)
def test_what_asterisk_gives_up_names_file_line_and_cure(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfError) as error:
        conf(tmp_path, text)
    assert words in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_a_loop_of_files_is_found_where_it_closes(tmp_path: Path) -> None:
    with pytest.raises(ConfError, match=r"/two\.conf:1: .*/one\.conf includes itself, or a file that"):
        conf(tmp_path, "#include one.conf\n", one="#include two.conf\n", two="#include one.conf\n")


def test_a_file_may_be_included_twice(tmp_path: Path) -> None:
    read = conf(tmp_path, "[a]\n#include one.conf\n[b]\n#include one.conf\n", one="x=1\n")
    assert settings(read) == [("a", [("x", "1")]), ("b", [("x", "1")])]


@pytest.mark.parametrize(("files", "read"), [(10, True), (11, False)])
def test_ten_files_within_one_another_are_read(tmp_path: Path, files: int, read: bool) -> None:
    for number in range(1, files):
        (tmp_path / f"{number}.conf").write_text(f"#include {number + 1}.conf\n")
    (tmp_path / f"{files}.conf").write_text("[a]\n")
    if read:
        assert len(read_conf(tmp_path / "1.conf").files) == files
    else:
        with pytest.raises(ConfError, match="more than 10 files within one another; include them side by"):
            read_conf(tmp_path / "1.conf")


def test_who_reads_may_want_fewer_files(tmp_path: Path) -> None:
    conf(tmp_path, "[a]\n#include one.conf\n", one="x=1\n")
    assert len(read_conf(tmp_path / "x.conf", files_max=2).files) == 2
    with pytest.raises(ConfError, match="more than 1 files; include fewer"):
        read_conf(tmp_path / "x.conf", files_max=1)


def test_braces_are_alternatives(tmp_path: Path) -> None:
    read = conf(tmp_path, "[a]\n#include {one,t{w,x}o}.conf\n", one="x=1\n", two="y=2\n")
    assert settings(read) == [("a", [("x", "1"), ("y", "2")])]


@pytest.mark.parametrize(
    "pattern", ["{a}" * 2_000, "{a,b}" * 1_500, "{" * 5_000, "{a," * 1_500 + "}" * 1_500]
)
def test_braces_without_measure_are_soon_given_up(tmp_path: Path, pattern: str) -> None:
    assert settings(conf(tmp_path, f"[a]\n#tryinclude {pattern}\nx=1\n")) == [("a", [("x", "1")])]


def test_a_condition_that_is_no_expression_holds_for_nothing(tmp_path: Path) -> None:
    assert settings(conf(tmp_path, "[a]\nx=1\n[a](+x=[0-9])\ny=2\n")) == [("a", [("x", "1"), ("y", "2")])]
    with pytest.raises(ConfError, match=r"\[a\]\(\+\) adds to a section that is not there"):
        conf(tmp_path, "[a]\nx=1\n[a](+x=[)\ny=2\n")


def test_an_included_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "loop.conf").symlink_to(tmp_path / "loop.conf")
    with pytest.raises(ConfError, match=r"x\.conf:2: #include loop\.conf"):
        conf(tmp_path, "[a]\n#include loop.conf\n")
    with pytest.raises(FileNotFoundError):
        read_conf(tmp_path / "none.conf")


@pytest.mark.parametrize(
    ("bound", "value", "text"),
    [
        ("BYTES_MAX", 10, "[a]\nx=123456789\n"),
        ("FILES_MAX", 1, "[a]\n#include one.conf\n"),
        ("SETTINGS_MAX", 3, "[t](!)\na=1\nb=2\n[u](t)\n"),
    ],
)
def test_size_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, value: int, text: str
) -> None:
    conf(tmp_path, text, one="x=1\n")
    monkeypatch.setattr(asterisk_conf, bound, value)
    with pytest.raises(ConfError, match="more than"):
        conf(tmp_path, text, one="x=1\n")


def test_odd_bytes_do_not_stop_the_reading(tmp_path: Path) -> None:
    (tmp_path / "x.conf").write_bytes(b"\xef\xbb\xbf[a]\r\nx=\xff\r\ny=1\r\n")
    assert settings(read_conf(tmp_path / "x.conf")) == [("a", [("x", "�"), ("y", "1")])]
