"""Stock configs whose layers need compiled mmcv ops train a step and predict with what stands in for them."""

import pytest
import torch

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")
import sterf_plugins

sterf_plugins.setup()

from mmengine.hub import get_config  # noqa: E402
from mmengine.registry import MODELS, DefaultScope  # noqa: E402
from mmengine.structures import PixelData  # noqa: E402

from sterf_plugins.openmmlab.configs.reading import revert_sync_bn, without_weight_files  # noqa: E402

CONFIGS = {
    "offsets of another level": "mmdet::dyhead/atss_r50_fpn_dyhead_1x_coco.py",
    "carafe in neck and head": "mmdet::carafe/mask-rcnn_r50_fpn-carafe_1x_coco.py",
    "deformable pooling": "mmdet::dcn/faster-rcnn_r50_fpn_dpool_1x_coco.py",
    "modulated pooling": "mmdet::dcnv2/faster-rcnn_r50_fpn_mdpool_1x_coco.py",
    "DCN": "mmdet::dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py",
    "DCN of ResNeXt": "mmdet::dcn/faster-rcnn_x101-32x4d-dconv-c3-c5_fpn_1x_coco.py",
    "DCNv2 in 4 groups": "mmdet::dcnv2/faster-rcnn_r50-mdconv-group4-c3-c5_fpn_1x_coco.py",
    "switchable dilation": "mmdet::detectors/cascade-rcnn_r50-sac_1x_coco.py",
    "masked convolution": "mmdet::guided_anchoring/ga-retinanet_r50-caffe_fpn_1x_coco.py",
    "RepPoints": "mmdet::reppoints/reppoints-moment_r50_fpn_1x_coco.py",
    "dilated offsets": "mmdet::cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py",
    "VFNet": "mmdet::vfnet/vfnet_r50-mdconv-c3-c5_fpn_ms-2x_coco.py",
    "focal loss": "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py",
    "deformable attention": "mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py",
    "Mask2Former of mmdet": "mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py",
    "PointRend of mmdet": "mmdet::point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py",
    "soft NMS": "mmdet::faster_rcnn/faster-rcnn_r50_fpn_soft-nms_1x_coco.py",
    "groups of NMS": "mmdet::pisa/faster-rcnn_r50_fpn_pisa_1x_coco.py",
    "PSA masks": "mmseg::psanet/psanet_r50-d8_4xb4-80k_ade20k-512x512.py",
    "criss-cross attention": "mmseg::ccnet/ccnet_r50-d8_4xb4-80k_ade20k-512x512.py",
    "PointRend of mmseg": "mmseg::point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py",
    "Mask2Former of mmseg": "mmseg::mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py",
}
FAST = "offsets of another level", "masked convolution", "deformable pooling"


def image(segmentor: bool) -> dict:
    """One image as a data loader gives it, with two objects or two classes."""
    if segmentor:
        from mmseg.structures import SegDataSample

        labels = torch.arange(2).repeat_interleave(64).expand(1, 128, 128)
        shapes = dict.fromkeys(("img_shape", "ori_shape", "pad_shape"), (128, 128))
        sample = SegDataSample(metainfo=shapes, gt_sem_seg=PixelData(data=labels))
        return dict(inputs=[torch.randint(256, (3, 128, 128), dtype=torch.uint8)], data_samples=[sample])
    from mmdet.testing import demo_mm_inputs

    return demo_mm_inputs(1, (3, 128, 128), num_items=[2], with_mask=True, with_semantic=True, use_box_type=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config", [pytest.param(c, id=n, marks=[] if n in FAST else pytest.mark.slow) for n, c in CONFIGS.items()]
)
@pytest.mark.filterwarnings("ignore")  # those of the stock layers
@pytest.mark.sweep
def test_a_stock_config_trains_a_step_and_predicts(config):
    torch.manual_seed(0)
    config = get_config(config)
    revert_sync_bn(config)
    without_weight_files(config.model)
    for key in ("size", "batch_augments"):  # sizes of real images
        if key in config.model.data_preprocessor:
            config.model.data_preprocessor[key] = (128, 128) if key == "size" else None
    if "rcnn" in (config.model.get("test_cfg") or {}):  # as few regions as show that they are read
        config.model.test_cfg.rcnn.max_per_img = 5
        config.model.test_cfg.rpn.max_per_img = config.model.train_cfg.rpn_proposal.max_per_img = 40
        stages = config.model.train_cfg.rcnn
        for stage in stages if isinstance(stages, list) else [stages]:
            stage.sampler.num = 16
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = MODELS.build(config.model)
        model.init_weights()  # until then some parameters are whatever was in memory
    batch = image(config.default_scope == "mmseg")
    losses, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode="loss"))
    losses.backward()
    assert losses.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    model.eval()
    with torch.no_grad():
        (prediction,) = model(**model.data_preprocessor(batch, False), mode="predict")
    assert "pred_sem_seg" in prediction or prediction.pred_instances.bboxes.shape[1] == 4
