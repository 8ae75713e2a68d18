# The SRB e4 row of arXiv:2510.21403, with a BN in the mixers so that they fire, and a channel MLP.
_base_ = ['../_base_/tracking/sd_track.py']
model = dict(mixer='srb', sep_conv=True)
