# With the released detectors' own behaviour, for their checkpoints (tools/model_converters/convert.py).
# The released baseline also trains with spikes up to 8 (divided by 4); it evaluates with 4, as here.
_base_ = './mask-rcnn_sdtv3-b-conv_spikefpn_ms-1x_coco.py'
model = {{_base_.released}}
# `norm: decay_mult 0` of the release matches no parameter: norm layers decay like all others.
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=1.0))
