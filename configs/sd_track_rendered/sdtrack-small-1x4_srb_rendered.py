# The same with SRB mixers.
_base_ = ['sdtrack-small-1x4_conv_rendered.py']
model = dict(mixer='srb')
