"""The autoencoder for images of any size: strips of rows pass through the device, the whole lies in host memory."""
