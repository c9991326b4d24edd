#!/usr/bin/env bash
# A 16-bit grey TIFF whose white is 0 opens as its negative, a 12-bit one nearly black; 8-bit ones open right.
#
# Package: pillow 13.0.0, beside tifffile 2026.3.3, which writes the files.
# Guess: the TIFF tag PhotometricInterpretation is honoured whatever the depth, as it is for 8 bits, and 12 bits are
#   scaled to 16, as Pillow does with those of a PGM (`PpmImagePlugin`).
# Found: the same light grey, stored with white = 0, comes as 200 of 255 with 8 bits and as 14135 of 65535, its
#   negative, with 16; 12-bit white is 4095 of 65535. Both in silence: mode and size are those of any 16-bit picture.
# Matters: microscopes, scanners and DICOM exports write such files; as the source of an edit or as a mask the
#   negative is inverted and scored like any picture, and a mask marks everything but its area.
# Source: OPEN_INFO in PIL/TiffImagePlugin.py: (II, 0, (1,), 1, (16,), ()) has the raw mode "I;16", where 8 bits have
#   "L;I"; (II, 1, (1,), 1, (12,), ()) has "I;12". TIFF 6.0, section 4.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile pillow==13.0.0 tifffile==2026.3.3 numpy==2.4.6
cat >"$folder/negative.py" <<'PYTHON'
import struct

import numpy
import tifffile
from PIL import Image

folder = __import__("sys").argv[1]
for name, light in (("8", numpy.uint8(200)), ("16", numpy.uint16(200 * 257))):
    whole = numpy.iinfo(light.dtype).max
    stored = numpy.full((4, 4), whole - light, light.dtype)
    tifffile.imwrite(f"{folder}/{name}.tiff", stored, photometric="miniswhite")
    with Image.open(f"{folder}/{name}.tiff") as image:
        found = image.getpixel((0, 0))
    print(f"{name} bits: light is {light} of {whole}, Pillow gives {found}, mode {image.mode}")
    assert found == (light if name == "8" else whole - light)

white = b"\xff" * 6  # four values of 12 bits
tags = [(256, 2), (257, 2), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 2), (279, 6)]
entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags)
with open(f"{folder}/12.tiff", "wb") as file:
    file.write(b"II*\0" + struct.pack("<I", 14) + white + struct.pack("<H", len(tags)) + entries + bytes(4))
with Image.open(f"{folder}/12.tiff") as image:
    found = image.getpixel((0, 0))
print(f"12 bits: white is 4095 of 4095, Pillow gives {found}, mode {image.mode}")
assert (image.mode, found) == ("I;16", 4095)
PYTHON
"$folder/venv/bin/python" "$folder/negative.py" "$folder"
