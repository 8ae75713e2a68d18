# With the released detectors' own behaviour, for their checkpoints (tools/model_converters/convert.py).
_base_ = './mask-rcnn_sdtv3-t-mlpixer6_spikefpn_ms-1x_coco.py'
model = {{_base_.released}}
# `norm: decay_mult 0` of the release matches no parameter: norm layers decay like all others.
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=1.0))
