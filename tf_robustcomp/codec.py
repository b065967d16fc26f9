"""Write images to a compressed file and read them back, with a trained compressor.

    python -m tf_robustcomp.codec encode photo.jpg --quality=0.5 --out=photo.rcbs      a photograph, of any size
    python -m tf_robustcomp.codec decode photo.rcbs --out=FOLDER

    python -m tf_robustcomp.codec fit --model=RUN --data=mnist        once: the probabilities of its symbols
    python -m tf_robustcomp.codec fit-list --model=RUN --data=mnist   once: a list of codes, for --encoder=list
    python -m tf_robustcomp.codec encode --model=RUN --out=FILE INPUT...
    python -m tf_robustcomp.codec decode --model=RUN --out=FOLDER FILE
    python -m tf_robustcomp.codec info FILE

An INPUT is a picture (.png, .jpg, .webp, .tif, .bmp), a folder of them, a .npy or .npz file, or mnist or digits (their
test images).  Larger pictures are cut into tiles of the model's size; a grey model codes channels one by one.  RUN is a
run directory, or a .keras file; without it, photographs are coded by the model that comes with the package.  Of a
picture EXIF's orientation is applied, another colour profile and CMYK are brought to sRGB, transparency is kept
losslessly, and 8 bits a channel are kept.  A training fits the probabilities itself when it ends.

--encoder=search looks for nearer codes than the network's (of photographs, for the least rate + lambda * distortion),
--encoder=list scans the list of fit-list, and --encoder=list,search does both.  The file and its decoder do not depend
on it.
"""

import functools
import sys

from tf_robustcomp.cli import flags, startup
from tf_robustcomp.cli.settings import CodecSettings
from tf_robustcomp.runs.models import model_files, model_path

COMMAND = "codec"
Settings = CodecSettings


def command(parsed: flags.Parsed) -> None:
    """Fit, encode, decode or describe, as the first word says."""
    action, words = parsed.settings.checked_words(parsed.words)
    if action != "info" and parsed.settings.model:
        model_path(parsed.settings.model)  # before the import, which takes longer
    if action == "encode":
        parsed.settings.check_outputs(words, model_files(parsed.settings.model) if parsed.settings.model else [])
    codec = startup.load("experiments.codec")
    if action == "fit":
        codec.fit(parsed.settings)
    elif action == "fit-list":
        codec.fit_list(parsed.settings)
    elif action == "encode":
        codec.encode(parsed.settings, words)
    elif action == "decode":
        codec.decode(parsed.settings, words[0])
    else:
        codec.info(words[0])


main = functools.partial(flags.run, COMMAND, __doc__, Settings, command, positional=None)


if __name__ == "__main__":
    sys.exit(main())
