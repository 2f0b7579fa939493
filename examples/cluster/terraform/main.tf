# Nodes whose instances are alike: any instance becomes any node of its zone that is free.

locals {
  zones = { for node_id, subnet in data.aws_subnet.node : node_id => subnet.availability_zone }

  volumes = merge([
    for node_id in keys(var.nodes) : {
      for name in keys(var.sizes) : "${node_id}/${name}" => { node_id = node_id, set = name }
    }
  ]...)

  # The subnets of each group's nodes, by its name.
  groups = {
    for node_id, subnet_id in var.nodes :
    (var.group_per_zone ? "${var.prefix}-${local.zones[node_id]}" : var.prefix) => subnet_id...
  }

  # Rounded down, because EC2 rounds up the instances that must stay.
  min_healthy = {
    for name, subnets in local.groups : name => floor(100 * (length(subnets) - 1) / length(subnets))
  }

  nodes_of_zone = { for node_id, zone in local.zones : zone => node_id... }

  user_data = {
    kraken = { enabled = true }
    write_files = [
      {
        path        = "/usr/local/sbin/complete-launch"
        permissions = "0755"
        content     = file("${path.module}/../complete-launch")
      },
      {
        path    = "/etc/systemd/system/complete-launch.service"
        content = file("${path.module}/../complete-launch.service")
      },
    ]
    runcmd = [
      ["systemctl", "daemon-reload"],
      ["systemctl", "start", "--no-block", "complete-launch.service"],
    ]
  }
}

data "aws_subnet" "node" {
  for_each = var.nodes
  id       = each.value
}

# ---------------------------------------------------------------- volumes

resource "aws_ebs_volume" "member" {
  for_each          = local.volumes
  availability_zone = local.zones[each.value.node_id]
  size              = var.sizes[each.value.set]
  type              = "gp3"
  encrypted         = true

  tags = {
    Name                 = "${var.prefix}-${each.key}"
    "KRKN-IN:Prefix"     = var.prefix
    "KRKN-IN:NodeId"     = each.value.node_id
    "KRKN-IN:VolumeName" = each.value.set
    "KRKN-IN:FsType"     = "ext4"
    "KRKN-IN:MountPath"  = "/krkn_${each.value.set}"
  }

  # To take a node away: first "terraform state rm" its volumes.
  lifecycle {
    prevent_destroy = true
  }
}

# ------------------------------------------------------------------- role

data "aws_partition" "current" {}

data "aws_service_principal" "ec2" {
  service_name = "ec2"
}

resource "aws_iam_role" "node" {
  name_prefix = "${substr(var.prefix, 0, 30)}-node-"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = data.aws_service_principal.ec2.name }
    }]
  })
}

resource "aws_iam_role_policy" "node" {
  for_each = {
    volumes = "${path.module}/../../iam-policy.json"
    hook    = "${path.module}/../iam-policy-hook.json"
  }
  name_prefix = "${each.key}-"
  role        = aws_iam_role.node.id

  policy = replace(
    replace(file(each.value), "\"kafka\"", jsonencode(var.prefix)),
    "arn:aws:", "arn:${data.aws_partition.current.partition}:",
  )
}

resource "aws_iam_instance_profile" "node" {
  name_prefix = "${substr(var.prefix, 0, 30)}-node-"
  role        = aws_iam_role.node.name
}

# -------------------------------------------------------------- instances

resource "aws_launch_template" "node" {
  name_prefix            = "${var.prefix}-"
  image_id               = var.image_id
  instance_type          = var.instance_type
  vpc_security_group_ids = var.security_group_ids

  iam_instance_profile {
    name = aws_iam_instance_profile.node.name
  }

  metadata_options {
    http_endpoint          = "enabled"
    http_tokens            = "required"
    instance_metadata_tags = "enabled"
  }

  # The instance alone: the root volume is no volume of a node.
  tag_specifications {
    resource_type = "instance"

    tags = {
      Name              = var.prefix
      "KRKN-IN:Prefix"  = var.prefix
      "KRKN-IN:NodeId"  = "*"
      "KRKN-IN:Volumes" = join(",", keys(var.sizes))
    }
  }

  user_data = base64encode("#cloud-config\n${yamlencode(local.user_data)}")
}

resource "aws_autoscaling_group" "nodes" {
  for_each                  = local.groups
  name                      = each.key
  min_size                  = length(each.value)
  max_size                  = length(each.value)
  desired_capacity          = length(each.value)
  vpc_zone_identifier       = distinct(each.value)
  health_check_type         = "EC2"
  health_check_grace_period = 300
  default_instance_warmup   = var.warmup
  wait_for_capacity_timeout = "20m"

  # A zone keeps its number of instances, because it keeps its nodes.
  suspended_processes = ["AZRebalance"]

  availability_zone_distribution {
    capacity_distribution_strategy = "balanced-only"
  }

  launch_template {
    id      = aws_launch_template.node.id
    version = aws_launch_template.node.latest_version
  }

  # In service means mounted.
  initial_lifecycle_hook {
    name                 = "volumes"
    lifecycle_transition = "autoscaling:EC2_INSTANCE_LAUNCHING"
    heartbeat_timeout    = var.heartbeat_timeout
    default_result       = "ABANDON"
  }

  # One after the other, and never more instances than nodes: the old one must go first.
  instance_maintenance_policy {
    min_healthy_percentage = local.min_healthy[each.key]
    max_healthy_percentage = 100
  }

  # Not with a group for each zone: Terraform would refresh all of them at once.
  dynamic "instance_refresh" {
    for_each = var.group_per_zone ? [] : ["one"]

    content {
      strategy = "Rolling"

      preferences {
        min_healthy_percentage = local.min_healthy[each.key]
        max_healthy_percentage = 100
        skip_matching          = true
      }
    }
  }

  # The policy for the hook is bound to it. The instances have it from their template.
  tag {
    key                 = "KRKN-IN:Prefix"
    value               = var.prefix
    propagate_at_launch = false
  }

  lifecycle {
    precondition {
      condition     = var.group_per_zone || length(distinct([for nodes in values(local.nodes_of_zone) : length(nodes)])) == 1
      error_message = "One group has as many instances in each zone, so each zone needs as many nodes. Or set group_per_zone."
    }
  }

  # What an instance asks for is there before it asks.
  depends_on = [aws_ebs_volume.member, aws_iam_role_policy.node]
}
