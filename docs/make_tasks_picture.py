"""Draw docs/images/tasks.jpg: what the three digits models say about one picture.

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

PICTURE = Path('data/digits/detection/val/000000000010.jpg')  # held out
BLUE = '#0072b2'


def checkpoint(config):
    """Return the last checkpoint of the training of a config."""
    folder = Path('work_dirs', config)
    return (folder / 'last_checkpoint').read_text().strip()


def infer(inferencer, config, image):
    """Run an inferencer of one of the three libraries, each in its own scope."""
    with DefaultScope.overwrite_default_scope(read_config(config).default_scope):
        return inferencer(config_path(config), checkpoint(config), device='cpu')(image)


def main():
    image = np.asarray(Image.open(PICTURE).convert('RGB'))
    found = infer(DetInferencer, 'yolov3_ghostnetv2_320_digits', image[..., ::-1])
    found = found['predictions'][0]
    pairs = zip(found['bboxes'], found['labels'], found['scores'], strict=True)
    boxes = [(box, label, score) for box, label, score in pairs if score >= 0.3]

    crops = []
    for (left, top, right, bottom), *_ in sorted(boxes, key=lambda box: box[0]):
        # The classifier was trained on digits with some background around them.
        side = round(1.5 * (bottom - top))
        corner = np.array([top + bottom - side, left + right - side]) / 2
        y, x = corner.round().astype(int).clip(0, np.subtract(image.shape[:2], side))
        crops.append(image[y : y + side, x : x + side])
    arguments = 'ghostnetv2_100_digits', [crop[..., ::-1] for crop in crops]
    answers = infer(ImageClassificationInferencer, *arguments)
    labels = infer(MMSegInferencer, 'fpn_ghostnetv2_digits', image[..., ::-1])
    labels = labels['predictions']

    figure = Figure(figsize=(7, 2.75), dpi=200, layout='constrained')
    parts = figure.subfigures(1, 3)
    titles = 'classification', 'detection', 'segmentation'
    for part, title in zip(parts, titles, strict=True):
        part.suptitle(title, fontsize=10)
    columns = 3
    panels = parts[0].subplots(-(-len(crops) // columns), columns).ravel()
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
        # Digits stand closer above each other than beside each other in this picture.
        inward = left + right < image.shape[1]
        x, side = (right + 3, 'left') if inward else (left - 3, 'right')
        text = f'{label}\n{score:.2f}'
        panel.text(x, (top + bottom) / 2, text, fontsize=8, ha=side, va='center')

    panel = parts[2].subplots()
    panel.imshow(image)
    config = read_config('fpn_ghostnetv2_digits')
    colours = ListedColormap(np.array(config.palette) / 255)
    shown = np.ma.masked_equal(labels, 0)
    panel.imshow(shown, colours, vmin=0, vmax=10, interpolation='nearest')
    # A few pixels of another label would be in the legend, but not to be seen.
    present = [i for i in range(1, 11) if (labels == i).sum() > 30]
    marks = [Patch(color=colours(i), label=config.classes[i]) for i in present]
    panel.legend(handles=marks, fontsize=7, loc='upper center', ncols=4)
    for part in parts[1:]:
        part.axes[0].axis('off')
    figure.savefig('docs/images/tasks.jpg')


if __name__ == '__main__':
    main()
