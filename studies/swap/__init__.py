"""Study 1, the swap: does a diffusion model of image latents drive a compatible video VAE?"""
