"""Whole models as networks from images to tensors, post-processing included.

They compute what ``predict`` of mmpretrain, mmdet and mmseg computes, but use only
operators that exporters support: no lists of data samples, no in-place writes to views.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel, BaseModule
from torch import Tensor, nn

OUTPUTS = ('predictions', 'dense', 'features')


class PixelFormat(NamedTuple):
    """How a data preprocessor normalises pixels from 0 to 255.

    ``mean`` and ``std`` are in the order of the network's channels: red, green, blue
    where ``rgb`` is true, else blue, green, red.
    """

    rgb: bool
    mean: list[float]
    std: list[float]


def pixel_format(model: BaseModel) -> PixelFormat:
    """Read how a model of mmpretrain, mmdet or mmseg normalises its images.

    Its pipeline must load images as BGR, which is the default of all three libraries.
    """
    preprocessor = model.data_preprocessor
    # The names in mmdet and mmengine, in mmseg, and in mmpretrain.
    flags = ('_channel_conversion', 'channel_conversion', 'to_rgb')
    rgb = any(getattr(preprocessor, flag, False) for flag in flags)
    if not hasattr(preprocessor, 'mean'):
        return PixelFormat(rgb, [0.0] * 3, [1.0] * 3)
    mean, std = (
        getattr(preprocessor, name).flatten().expand(3).tolist()
        for name in ('mean', 'std')
    )
    return PixelFormat(rgb, mean, std)


class Normalize(nn.Module):
    """Normalises RGB pixels from 0 to 255."""

    mean: Tensor
    std: Tensor

    def __init__(self, pixels: PixelFormat) -> None:
        super().__init__()
        self.rgb = pixels.rgb
        for name in ('mean', 'std'):
            # ncnn would take the first dimension of (3, 1, 1) for a batch.
            value = torch.tensor(getattr(pixels, name)).view(1, 3, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise images of shape (N, 3, H, W), uint8 or float."""
        if not self.rgb:
            images = images[:, [2, 1, 0]]
        return (images - self.mean) / self.std


@torch.library.custom_op('mmghostnetv2::batch_nms', mutates_args=())
def batch_nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, number: int
) -> Tensor:
    """Suppress boxes that overlap a better one; in ONNX this is NonMaxSuppression.

    Of the ``boxes`` (N, A, 4) with ``scores`` (N, 1, A) above 0, those stay whose
    overlap with each better one is at most ``iou_threshold``; in an image at most the
    ``number`` best. The result has a row (image, 0, box) for each of them, (K, 3).
    """
    from torchvision.ops import nms  # takes a second to import

    rows = []
    for image, (box, (score,)) in enumerate(zip(boxes, scores, strict=True)):
        (valid,) = torch.where(score > 0)
        kept = valid[nms(box[valid], score[valid], iou_threshold)[:number]]
        rows.append(torch.stack([kept * 0 + image, kept * 0, kept], dim=1))
    return torch.cat(rows)


@batch_nms.register_fake
def _(boxes, scores, iou_threshold: float, number: int) -> Tensor:
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(kept, 3, dtype=torch.int64)


class Level(NamedTuple):
    """Boxes (N, A, 4) of a level, their scores (N, A, C), and factors of the scores."""

    boxes: Tensor
    scores: Tensor
    factors: Tensor | None = None


def _yolo_levels(head: BaseModule, features: Sequence[Tensor]) -> list[Level]:
    """Decode YOLOv3's maps into one level, because it ranks all levels together."""
    (maps,) = head(features)
    priors = head.prior_generator.grid_priors(
        [x.shape[-2:] for x in maps], device=maps[0].device
    )
    boxes, scores, factors = [], [], []
    for x, anchors, stride in zip(maps, priors, head.featmap_strides, strict=True):
        x = x.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, head.num_attrib))
        centers, sizes, objectness, classes = x.split([2, 2, 1, head.num_classes], -1)
        deltas = torch.cat([centers.sigmoid(), sizes], dim=-1)
        boxes.append(head.bbox_coder.decode(anchors, deltas, stride))
        scores.append(classes.sigmoid())
        factors.append(objectness.squeeze(-1).sigmoid())
    return [Level(*(torch.cat(parts, dim=1) for parts in (boxes, scores, factors)))]


def _anchor_levels(head: BaseModule, features: Sequence[Tensor]) -> list[Level]:
    """Decode the maps of heads such as SSD's, RetinaNet's and RTMDet's."""
    class_maps, box_maps, *factor_maps = head(features)
    priors = head.prior_generator.grid_priors(
        [x.shape[-2:] for x in class_maps], device=class_maps[0].device
    )

    # A trace keeps the shapes of inputs symbolic, but fixes those of later tensors.
    number = class_maps[0].shape[0]

    def flat(x: Tensor, parts: int) -> Tensor:
        return x.permute(0, 2, 3, 1).reshape(number, -1, parts)

    levels = []
    for scores, deltas, points, *factors in zip(
        class_maps, box_maps, priors, *factor_maps, strict=True
    ):
        scores, deltas = flat(scores, head.cls_out_channels), flat(deltas, 4)
        # Coders decode the boxes of one image, so the batch is passed as one image.
        boxes = head.bbox_coder.decode(points.repeat(number, 1), deltas.reshape(-1, 4))
        boxes = boxes.reshape(number, -1, 4)
        if head.use_sigmoid_cls:
            scores = scores.sigmoid()
        else:  # the last class is the background
            scores = scores.softmax(-1)[..., :-1]
        factors = [flat(x, 1).squeeze(-1).sigmoid() for x in factors]
        levels.append(Level(boxes, scores, *factors))
    return levels


def _require_inherited(module: nn.Module, base: type, *methods: str) -> None:
    """Raise a NotImplementedError unless these methods are those of ``base``."""
    cls = type(module)
    if any(getattr(cls, m, None) != getattr(base, m, None) for m in methods):
        raise NotImplementedError(
            f'{cls.__name__} overrides the prediction of its base class, so its '
            "predictions cannot be exported; export its backbone's output 'features'"
        )


class Detector(nn.Module):
    """Computes the boxes of images before or after non-maximum suppression (NMS).

    ``model`` is a one-stage detector of mmdet. With ``suppress`` the network applies
    NMS and sorts the boxes by score.

    Raises:
        NotImplementedError: The detector has two stages, its head overrides the
            prediction of its base class, or its NMS is not by class.
    """

    def __init__(self, model: BaseModel, suppress: bool) -> None:
        super().__init__()
        if getattr(model, 'bbox_head', None) is None:
            raise NotImplementedError(
                f'{type(model).__name__}: two-stage detectors, and those without a '
                "bbox_head, cannot be exported; export the backbone's output 'features'"
            )
        from mmdet.models.dense_heads import YOLOV3Head
        from mmdet.models.dense_heads.base_dense_head import BaseDenseHead

        head = model.bbox_head
        is_yolo = isinstance(head, YOLOV3Head)
        methods = 'predict', 'predict_by_feat', '_predict_by_feat_single'
        base = YOLOV3Head if is_yolo else BaseDenseHead
        _require_inherited(head, base, *methods, '_bbox_post_process')
        if head.bbox_coder.encode_size != 4:
            raise NotImplementedError('only boxes of four numbers can be exported')
        cfg, options = head.test_cfg, dict(head.test_cfg.nms)
        threshold = options.pop('iou_threshold')
        if options.pop('type', 'nms') != 'nms' or options:
            raise NotImplementedError(
                'the only non-maximum suppression that can be exported is by class, '
                f"dict(type='nms', iou_threshold=...), not {dict(cfg.nms)}"
            )
        # Options that a config may omit, with the values that then hold.
        defaults = dict(score_thr=0, conf_thr=-1, nms_pre=-1, min_bbox_size=-1)
        self.settings = {name: cfg.get(name, value) for name, value in defaults.items()}
        self.settings |= dict(iou_threshold=threshold, max_per_img=cfg.max_per_img)
        self.model = model
        self.suppress = suppress
        self.levels = _yolo_levels if is_yolo else _anchor_levels
        self.clip = not is_yolo and head.bbox_coder.clip_border
        self.output_names: tuple[str, ...] = ('dets', 'labels')
        if not suppress:
            self.output_names = ('boxes', 'scores')
            # Only the maps of a head tell whether it has factors. A copy computes them,
            # so that the model stays in its mode.
            images = next(model.parameters()).new_zeros(1, 3, 64, 64)
            with torch.no_grad():
                (level, *_) = deepcopy(self).eval().decode(images)
            if level.factors is not None:
                self.output_names += ('objectness' if is_yolo else 'factors',)

    def decode(self, images: Tensor) -> list[Level]:
        """Compute all boxes, clipped to the images if the head clips its boxes."""
        levels = self.levels(self.model.bbox_head, self.model.extract_feat(images))
        if not self.clip:
            return levels
        height, width = images.shape[-2:]
        clipped = []
        for level in levels:
            limits = width, height, width, height
            sides = zip(level.boxes.split(1, dim=-1), limits, strict=True)
            boxes = torch.cat([x.clamp(0, limit) for x, limit in sides], dim=-1)
            clipped.append(level._replace(boxes=boxes))
        return clipped

    def candidates(self, level: Level) -> tuple[Tensor, Tensor, Tensor]:
        """Select the P best pairs of a box and a class.

        Returns boxes (N, P, 4), scores (N, P), which are 0 where a pair is below a
        threshold, and labels (N, P).
        """
        boxes, scores, factors = level
        classes, settings = scores.shape[-1], self.settings
        allowed = scores > settings['score_thr']
        if factors is not None and settings['conf_thr'] > 0:
            allowed = allowed & (factors >= settings['conf_thr']).unsqueeze(-1)
        pairs = scores.masked_fill(~allowed, 0).flatten(1)
        number, limit = pairs.shape[1], settings['nms_pre']
        best, index = pairs.topk(min(number, limit) if limit > 0 else number)
        box = index // classes
        chosen = boxes.gather(1, box.unsqueeze(-1).expand(-1, -1, 4))
        if factors is not None:
            best = best * factors.gather(1, box)
        if settings['min_bbox_size'] >= 0:
            sides = chosen[..., 2:] - chosen[..., :2]
            small = (sides <= settings['min_bbox_size']).any(-1)
            best = best.masked_fill(small, 0)
        return chosen, best, index % classes

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Detect objects in images of shape (N, 3, H, W).

        Returns:
            tuple[Tensor, ...]: With suppression, 'dets' (N, K, 5) with x1, y1, x2, y2
            in pixels and the score, highest score first, and 'labels' (N, K). K is
            ``max_per_img`` of the model's ``test_cfg``; rows without a box have the
            score 0, no area and the label -1.

            Without it, the 'boxes' (N, A, 4) of all levels and their 'scores'
            (N, A, C). YOLOv3 adds their 'objectness' (N, A), and heads such as FCOS's
            and ATSS's add their centerness as 'factors' (N, A). The scores must be
            multiplied by them.
        """
        levels = self.decode(images)
        if not self.suppress:
            outputs = zip(*levels, strict=True)
            return tuple(torch.cat(x, dim=1) for x in outputs if x[0] is not None)
        parts = zip(*map(self.candidates, levels), strict=True)
        boxes, scores, labels = (torch.cat(part, dim=1) for part in parts)
        # As in mmcv, boxes are shifted by an offset that depends on their class, so
        # that boxes of different classes do not overlap. The rounding is also mmcv's.
        largest = boxes.masked_fill((scores == 0).unsqueeze(-1), 0).amax((1, 2))
        apart = labels * (largest + 1).unsqueeze(1)
        shifted = boxes + apart.unsqueeze(-1)
        threshold, number = self.settings['iou_threshold'], self.settings['max_per_img']
        rows = batch_nms(shifted, scores.unsqueeze(1), threshold, number)
        image, _, box = rows.unbind(1)
        index = image * scores.shape[1] + box
        stays = torch.zeros_like(scores).flatten().index_fill(0, index, 1)
        # Pad so that topk can return max_per_img rows.
        scores = F.pad(scores * stays.view_as(scores), (0, number))
        boxes = F.pad(boxes, (0, 0, 0, number))
        labels = F.pad(labels, (0, number))
        best, index = scores.topk(number)
        none = best == 0
        boxes = boxes.gather(1, index.unsqueeze(-1).expand(-1, -1, 4))
        boxes = boxes.masked_fill(none.unsqueeze(-1), 0)
        labels = labels.gather(1, index).masked_fill(none, -1)
        return torch.cat([boxes, best.unsqueeze(-1)], dim=-1), labels


class Segmentor(nn.Module):
    """Labels the pixels of images (N, 3, H, W); returns 'labels' (N, H, W).

    Raises:
        NotImplementedError: The segmentor (such as a cascade) or its head overrides the
            prediction of its base class, it predicts in a sliding window, or it has a
            single output channel.
    """

    output_names = ('labels',)

    def __init__(self, model: BaseModel) -> None:
        super().__init__()
        from mmseg.models.decode_heads.decode_head import BaseDecodeHead
        from mmseg.models.segmentors import EncoderDecoder

        methods = 'predict', 'inference', 'whole_inference', 'encode_decode'
        _require_inherited(model, EncoderDecoder, *methods, 'postprocess_result')
        head = model.decode_head
        _require_inherited(head, BaseDecodeHead, 'predict', 'predict_by_feat')
        mode = model.test_cfg.mode
        if mode != 'whole':
            raise NotImplementedError(
                f"test_cfg.{mode=} cannot be exported, only 'whole' images"
            )
        if model.out_channels == 1:
            raise NotImplementedError(
                'a segmentor with one output channel cannot be exported'
            )
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the class ids (N, H, W) of normalised images (N, 3, H, W)."""
        logits = self.model.decode_head(self.model.extract_feat(images))
        size, corners = images.shape[-2:], self.model.align_corners
        logits = F.interpolate(logits, size, mode='bilinear', align_corners=corners)
        return logits.argmax(1)


class Classifier(nn.Module):
    """Classifies images (N, 3, H, W); returns 'scores' (N, C), which sum to 1.

    Raises:
        NotImplementedError: The head overrides the prediction of mmpretrain's ClsHead.
    """

    output_names = ('scores',)

    def __init__(self, model: BaseModel) -> None:
        super().__init__()
        from mmpretrain.models import ClsHead

        _require_inherited(model.head, ClsHead, 'predict', '_get_predictions')
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores (N, C) of normalised images (N, 3, H, W)."""
        return self.model.head(self.model.extract_feat(images)).softmax(1)


class Features(nn.Module):
    """Computes the backbone's features of images (N, 3, H, W), shallow to deep.

    They are named 'features0' and so on.

    Raises:
        NotImplementedError: The backbone has no ``out_indices``.
    """

    def __init__(self, model: BaseModel) -> None:
        super().__init__()
        self.backbone = model.backbone
        stages = getattr(self.backbone, 'out_indices', None)
        if not isinstance(stages, Sequence):
            raise NotImplementedError(
                f'{type(self.backbone).__name__} has no sequence out_indices, which '
                'tells the number of its features: add this attribute to export it'
            )
        self.output_names = tuple(f'features{i}' for i in range(len(stages)))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the features of normalised images (N, 3, H, W)."""
        return tuple(self.backbone(images))


def find_task(model: BaseModel) -> str:
    """Return a model's task: 'classification', 'detection' or 'segmentation'.

    Raises:
        NotImplementedError: The model has another task.
    """
    heads = dict(decode_head='segmentation', head='classification')
    detectors = 'bbox_head', 'roi_head', 'rpn_head', 'mask_head', 'panoptic_head'
    heads |= dict.fromkeys(detectors, 'detection')
    for head, task in heads.items():
        if getattr(model, head, None) is not None:
            return task
    raise NotImplementedError(
        f'{type(model).__name__} is not a classifier, detector or segmentor'
    )


def deployable(
    model: BaseModel, output: str = 'predictions', preprocess: bool = False
) -> nn.Module:
    """Turn a model into a network that takes images and returns tensors.

    Args:
        model (BaseModel): Model of mmpretrain, mmdet or mmseg, as
            :func:`mmghostnetv2.init_model` builds it. It is left in eval mode, and the
            network shares its layers.
        output (str): 'predictions', see :class:`Classifier`, :class:`Detector` and
            :class:`Segmentor`; 'dense', a detector's boxes before non-maximum
            suppression; or 'features', those of the backbone.
        preprocess (bool): Whether the network takes RGB pixels from 0 to 255, floats or
            uint8, and normalises them. Otherwise it takes what the model's data
            preprocessor returns. The network does not pad, because the colour that
            normalisation turns into 0 is not a whole number.

    Returns:
        nn.Module: Network in eval mode that takes images (N, 3, H, W). Its attribute
        ``output_names`` names the outputs.

    Raises:
        ValueError: This model does not have this ``output``.
        NotImplementedError: This output of the model cannot be exported.
    """
    if output not in OUTPUTS:
        raise ValueError(f'output must be one of {OUTPUTS}, got {output!r}')
    network: Any
    if output == 'features':
        network = Features(model)
    elif (task := find_task(model)) == 'detection':
        network = Detector(model, suppress=output == 'predictions')
    elif output == 'dense':
        raise ValueError(f"output 'dense' is for detectors, not for {task}")
    else:
        network = (Classifier if task == 'classification' else Segmentor)(model)
    if preprocess:
        names = network.output_names
        network = nn.Sequential(Normalize(pixel_format(model)), network)
        network.output_names = names
    return network.eval()
