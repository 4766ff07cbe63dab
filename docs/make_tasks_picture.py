"""Draw docs/images/tasks.png: what the three digits models say about one picture.

Example:
    python docs/make_tasks_picture.py

Run `make quickstart` for all three tasks first (TASK=cls, det and seg), then this
script in the root of the checkout.
"""

from pathlib import Path

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from mmdet.apis import DetInferencer
from mmengine.registry import DefaultScope
from mmpretrain import ImageClassificationInferencer
from mmseg.apis import MMSegInferencer
from PIL import Image

from mmghostnetv2.apis import config_path, read_config

PICTURE = Path('docs/images/digits.jpg')
BLUE = '#0072b2'


def checkpoint(config):
    """Return the last checkpoint of the training of a config."""
    folder = Path('work_dirs', config)
    return (folder / 'last_checkpoint').read_text().strip()


def infer(inferencer, config, image, **kwargs):
    """Run an inferencer of one of the three libraries, each in its own scope."""
    path = config_path(config)
    with DefaultScope.overwrite_default_scope(None):
        return inferencer(path, checkpoint(config), device='cpu')(image, **kwargs)


def main():
    image = np.asarray(Image.open(PICTURE).convert('RGB'))
    found = infer(DetInferencer, 'yolov3_ghostnetv2_320_digits', image[..., ::-1])
    found = found['predictions'][0]
    pairs = zip(found['bboxes'], found['labels'], found['scores'], strict=True)
    boxes = [(box, label, score) for box, label, score in pairs if score >= 0.3]

    crops = []
    for (left, top, right, bottom), *_ in sorted(boxes, key=lambda box: box[0]):
        # The classifier was trained on digits with some background around them.
        middle, half = ((left + right) / 2, (top + bottom) / 2), (bottom - top) * 0.75
        corners = [round(middle[i] + sign * half) for sign in (-1, 1) for i in (0, 1)]
        crops.append(np.asarray(Image.open(PICTURE).convert('RGB').crop(corners)))
    arguments = 'ghostnetv2_100_digits', [crop[..., ::-1] for crop in crops]
    answers = infer(ImageClassificationInferencer, *arguments)
    labels = infer(MMSegInferencer, 'fpn_ghostnetv2_digits', image[..., ::-1])
    labels = labels['predictions']

    figure = Figure(figsize=(7, 2.75), dpi=200, layout='constrained')
    parts = figure.subfigures(1, 3)
    for part, title in zip(parts, ('classification', 'detection', 'segmentation')):
        part.suptitle(title, fontsize=10)
    columns = 3
    panels = parts[0].subplots(-(-len(crops) // columns), columns).flat
    for panel in panels:
        panel.axis('off')
    for panel, crop, answer in zip(panels, crops, answers, strict=False):
        panel.imshow(crop)
        text = f'{answer["pred_class"]}  {answer["pred_score"]:.2f}'
        panel.set_title(text, fontsize=8)

    panel = parts[1].subplots()
    panel.imshow(image)
    for (left, top, right, bottom), label, score in boxes:
        size = right - left, bottom - top
        panel.add_patch(Rectangle((left, top), *size, fill=False, color=BLUE, lw=1.2))
        panel.text(
            right, top, f'{label}  {score:.2f}', fontsize=8, ha='right', va='bottom'
        )

    panel = parts[2].subplots()
    panel.imshow(image)
    config = read_config('fpn_ghostnetv2_digits')
    colours = ListedColormap(np.array(config.palette) / 255)
    shown = np.ma.masked_equal(labels, 0)
    panel.imshow(shown, colours, vmin=0, vmax=10, interpolation='nearest')
    present = np.unique(labels[labels > 0])
    marks = [Patch(color=colours(i), label=config.classes[i]) for i in present]
    panel.legend(handles=marks, fontsize=7, loc='lower right')
    for part in parts[1:]:
        part.axes[0].axis('off')
    figure.savefig('docs/images/tasks.png')


if __name__ == '__main__':
    main()
