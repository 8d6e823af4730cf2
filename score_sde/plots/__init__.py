"""Pictures: image grids, denoising strips, animations, curves and densities in the plane.

The package imports neither matplotlib nor Pillow until one of its functions needs it.
"""

from score_sde.plots.animations import animation
from score_sde.plots.class_rows import class_rows
from score_sde.plots.curves import loss_by_noise_level, loss_curve
from score_sde.plots.densities import density_plot, grid_points
from score_sde.plots.images import image_grid, save_image, to_uint8
from score_sde.plots.samples import point_picture, signal_picture
from score_sde.plots.strips import denoising_strip
