# The published tracker with four time steps of LIF neurons, which is the conv row of arXiv:2510.21403.
_base_ = ['../_base_/tracking/sd_track.py']
