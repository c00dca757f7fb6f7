"""`LitResNet18`, a ResNet-18 as a LightningModule, and its parts."""
