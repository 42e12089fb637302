"""Texts as an operator's slip, a broken disk or an attacker would leave them: good ones, changed in a few places."""

from hypothesis import strategies as st

SPLINTERS = (
    *(
        "",
        "\x00",
        "\n",
        "\r",
        "\ufeff",
        "\u2028",
        "\ud800",
        "\x1b[2J",
        '"',
        "'",
        '"""',
        "#",
        ",",
        ";",
        "\t",
        "=",
        ".",
    ),
    *(
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "[" * 3_000,
        "{a=" * 2_000,
        "a." * 2_000 + "a = 1\n",
        "\n[x]\n",
        "\n[[x]]\n",
    ),
    *(
        "0",
        "-1",
        "1e400",
        "nan",
        "-inf",
        "true",
        "9" * 30,
        "9" * 5_000,
        "0x" + "f" * 5_000,
        "1_000",
        "٣",
        "1.5",
    ),
    *("1979-05-27", "07:32:00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-02-30"),
    *(
        "Europe/London",
        "../../etc/passwd",
        "\n/",
        "C:",
        "." * 300,
        "GBP",
        "XXX",
        "+447",
        "+",
        "60/60",
        "0/0",
        "1/0",
    ),
    *("%s%n", "${SHELL(id)}", "&PJSIP/premium", "any", "outbound", "limit_s", "clause"),
)
"""What is known to break readers: ends of lines and of numbers, brackets without end, values of another kind."""

_splinters = st.sampled_from(SPLINTERS) | st.text(max_size=20)


@st.composite
def mutated(draw: st.DrawFn, originals: tuple[str, ...]) -> str:
    """One of `originals`, cut, doubled, or with splinters in it, in up to six places."""
    text = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(text)))
        until = min(len(text), at + draw(st.sampled_from((0, 1, 1, 2, 5, 20, 200))))
        match draw(st.sampled_from(("cut", "double", "splinter", "token", "truncate"))):
            case "cut":
                text = text[:at] + text[until:]
            case "double":
                text = text[:until] + text[at:]
            case "splinter":
                text = text[:at] + draw(_splinters) + text[until:]
            case "token":
                text = _with_token(text, at, draw(_splinters))
            case "truncate":
                text = text[: max(at, len(text) // 2)]
    return text


def _with_token(text: str, at: int, splinter: str) -> str:
    """The text with the next value (or CSV field) after `at` replaced."""
    ends = [place for mark in "=,\n" if (place := text.find(mark, at)) >= 0]
    begin = min(ends, default=len(text)) + 1
    end = min((place for mark in ",\n" if (place := text.find(mark, begin)) >= 0), default=len(text))
    return text[:begin] + splinter + text[end:]
