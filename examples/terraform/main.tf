# The cluster of the deck: three nodes, each with one log volume and three data
# volumes in RAID 0. Instances may be replaced at any time; volumes may not.
#
# Replace a node:  terraform apply -replace='aws_instance.node["1"]'

terraform {
  required_version = ">= 1.3"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

locals {
  # Node id to subnet. A node stays in its zone, because its volumes do.
  nodes = {
    for i in range(var.servers) :
    tostring(i) => var.subnet_ids[i % length(var.subnet_ids)]
  }

  # Three data volumes for each node, by "node-number".
  data = merge([
    for node, subnet in local.nodes : {
      for n in range(3) : "${node}-${n}" => { node = node, subnet = subnet }
    }
  ]...)
}

data "aws_subnet" "node" {
  for_each = local.nodes
  id       = each.value
}

# ---------------------------------------------------------------- volumes

resource "aws_ebs_volume" "log" {
  for_each          = local.nodes
  availability_zone = data.aws_subnet.node[each.key].availability_zone
  size              = var.log_size
  type              = "gp3"
  encrypted         = true

  tags = {
    Name                 = "${var.prefix}-${each.key}-log"
    "KRKN-IN:Prefix"     = var.prefix
    "KRKN-IN:NodeId"     = each.key
    "KRKN-IN:VolumeName" = "log"
    "KRKN-IN:Members"    = "1"
    "KRKN-IN:FsType"     = "ext4"
    "KRKN-IN:MountPath"  = "/krkn_log"
  }

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_ebs_volume" "data" {
  for_each          = local.data
  availability_zone = data.aws_subnet.node[each.value.node].availability_zone
  size              = var.data_size
  type              = "gp3"
  encrypted         = true

  tags = {
    Name                 = "${var.prefix}-${each.key}-data"
    "KRKN-IN:Prefix"     = var.prefix
    "KRKN-IN:NodeId"     = each.value.node
    "KRKN-IN:VolumeName" = "data"
    "KRKN-IN:Members"    = "3"
    "KRKN-IN:RaidLevel"  = "0"
    "KRKN-IN:FsType"     = "ext4"
    "KRKN-IN:MountPath"  = "/krkn_data"
  }

  lifecycle {
    prevent_destroy = true
  }
}

# ------------------------------------------------------------------- role

resource "aws_iam_role" "node" {
  name_prefix = "${var.prefix}-node-"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ec2.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy" "node" {
  name_prefix = "volumes-"
  role        = aws_iam_role.node.id
  policy      = replace(file("${path.module}/../iam-policy.json"), "\"kafka\"", jsonencode(var.prefix))
}

resource "aws_iam_instance_profile" "node" {
  name_prefix = "${var.prefix}-node-"
  role        = aws_iam_role.node.name
}

# -------------------------------------------------------------- instances

resource "aws_launch_template" "node" {
  name_prefix   = "${var.prefix}-"
  image_id      = var.image_id
  instance_type = var.instance_type
  user_data     = filebase64("${path.module}/../user-data.yaml")

  vpc_security_group_ids = var.security_group_ids

  iam_instance_profile {
    arn = aws_iam_instance_profile.node.arn
  }

  metadata_options {
    http_endpoint          = "enabled"
    http_tokens            = "required"
    instance_metadata_tags = "enabled"
  }
}

resource "aws_instance" "node" {
  for_each  = local.nodes
  subnet_id = each.value

  launch_template {
    id      = aws_launch_template.node.id
    version = aws_launch_template.node.latest_version
  }

  # Of the instance alone: its root volume must not carry them.
  tags = {
    Name              = "${var.prefix}-${each.key}"
    "KRKN-IN:Prefix"  = var.prefix
    "KRKN-IN:NodeId"  = each.key
    "KRKN-IN:Volumes" = "log,data"
  }

  # The role must be able to attach before the instance asks.
  depends_on = [aws_iam_role_policy.node]
}

output "instances" {
  value = { for node, instance in aws_instance.node : node => instance.private_ip }
}
