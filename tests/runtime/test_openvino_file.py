"""An OpenVINO file is refused for what polarpix does not write, before a runtime sees it."""

import hashlib
import random

import pytest

from polarpix.runtime.openvino_file import check_openvino, check_weights

WEIGHTS = bytes(16)
FILE = """<?xml version="1.0"?>
<net name="n" version="11"><layers>
<layer id="0" name="x" type="Parameter" version="opset1"><data shape="?,2" element_type="u8" />
<rt_info><attribute name="old" version="0" value="f32" /></rt_info><output><port id="0"><dim>-1</dim></port></output>
</layer><layer id="1" name="c" type="Const" version="opset1">
<data element_type="f32" shape="2,2" offset="0" size="16" /></layer>
</layers><edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0" /></edges>
<rt_info><polarpix value="{&quot;format&quot;: &quot;x&quot;}" /></rt_info></net>"""
CHANGES = {
    "entities": ("<net", '<!DOCTYPE net [<!ENTITY x SYSTEM "file:///etc/passwd">]><net'),
    "document types": ("<net", '<!DOCTYPE net SYSTEM "http://127.0.0.1:1/x"><net'),
    "instructions": ("<net", '<?xml-stylesheet href="x"?><net'),
    "undefined entity|no XML file": ('name="x"', 'name="&x;"'),
    "a tag 'body'": ("<edges>", "<body/><edges>"),
    "tags more than 12 deep": ("<rt_info><polarpix", "<rt_info>" + "<a>" * 5000 + "</a>" * 5000 + "<polarpix"),
    "set 'extension'": ('type="Const" version="opset1"', 'type="Const" version="extension"'),
    "kind 'string'": ('element_type="f32"', 'element_type="string"'),
    "at byte 8 of 16; the .bin file has 16": ('offset="0"', 'offset="8"'),
    "at byte -8": ('offset="0"', 'offset="-8"'),
    r"at byte 1.84467440737e\+19": ('offset="0"', f'offset="{2**64}"'),
    "of shape 2,99999999 in 16 bytes": ('shape="2,2"', 'shape="2,99999999"'),
    "of shape -2,-2 in 16 bytes": ('shape="2,2"', 'shape="-2,-2"'),
    "invalid literal": ('shape="2,2"', 'shape="?,2"'),
    "no XML file": ("</net>", ""),
    "its metadata are no texts": ("&quot;x&quot;", "3"),
    "Expecting": ("&quot;x&quot;", "x"),
}


def test_plain_files_are_taken() -> None:
    assert check_openvino(FILE.encode(), WEIGHTS) == {"format": "x"}
    assert check_openvino(FILE.replace("<polarpix", "<other").encode(), WEIGHTS) == {}
    check_weights(WEIGHTS, hashlib.sha256(WEIGHTS).hexdigest(), "a.bin")
    with pytest.raises(ValueError, match=r"a\.bin beside it is altered or another network's"):
        check_weights(WEIGHTS[1:], hashlib.sha256(WEIGHTS).hexdigest(), "a.bin")


@pytest.mark.parametrize("words", CHANGES)
def test_what_is_not_written_is_refused(words: str) -> None:
    old, new = CHANGES[words]
    assert old in FILE
    with pytest.raises(ValueError, match=words):
        check_openvino(FILE.replace(old, new, 1).encode(), WEIGHTS)


def test_laughs_and_other_encodings_are_refused() -> None:
    entities = '<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{k} "{f"&a{k - 1};" * 10}">' for k in range(1, 12))
    laughs = FILE.replace("<net", f"<!DOCTYPE net [{entities}]><net").replace('name="x"', 'name="&a11;"')
    for data in (laughs.encode(), FILE.encode("utf-16"), b"", b"\0" * 99):
        with pytest.raises(ValueError, match=r"not taken|no XML file|invalid start byte|must be"):
            check_openvino(data, WEIGHTS)


def test_no_bytes_end_otherwise_than_in_a_value_error() -> None:
    data, rng = FILE.encode(), random.Random(0)
    for _ in range(2000):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(data))] = rng.randrange(256)
        try:
            check_openvino(bytes(changed), WEIGHTS)
        except ValueError:
            continue
